//! One guest: its domain, what its monitor gets, the monitor's first thread, and its end.
use crate::loader::{self, Space, give_object, refused};
use crate::seat::Seat;
use crate::switches::Switches;
use abi::args::{CreateEc, CreateSc};
use abi::cap::{MEM_R, MEM_RW, MEM_RWX, PD_CREATE, ROOT_UTCB};
use abi::{Crd, PAGE_SIZE, Selector};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use lifecycle::{Operation, State};
use manifest::{Guest, Image};
use root::cpus::{Cpus, Place};
use root::level;
use root::listing;
use root::modules::{self, Module};
use root::pool::Pool;
use root::shares::Shares;
use root::taken::{Kept, Taken};
use rt::Boot;
use rt::memory::Window;
use rt::start::own_pd;
use vmm::control::{self, Control, Order, Unclaimed};
use vmm::layout;
use vmm::screen;
use vmm::status::{self, Kind, SLOTS};

/// Priority of a monitor's first thread: below the console, above its guest.
const PRIORITY: u8 = 12;
const QUANTUM_US: u32 = 10_000;
const LARGE: u64 = 2 << 20;
/// Everything that this program maps into a monitor's domain lies in the first 2^31 pages.
const ALL_PAGES: u8 = 31;

/// What a life of a guest is made from.
pub struct Maker<'a> {
    /// The machine.
    pub boot: Boot,
    /// Free memory.
    pub pool: &'a mut Pool,
    /// Boot modules.
    pub modules: &'a [Module],
    /// Seconds since 1970, 0 if unknown.
    pub wall_clock: u64,
    /// Who lives where.
    pub cpus: Cpus,
    /// What connects guests' network devices.
    pub switches: Switches,
    /// Memory that guests share.
    pub shares: Shares,
    /// How long a monitor has to hold its guest before it is taken apart, in milliseconds.
    pub stop_ms: u32,
}

/// A guest of the manifest, alive or not.
pub struct Cell {
    /// What the manifest says.
    pub guest: Guest,
    /// Where it is in its life.
    pub state: State,
    /// How it ended, in HALTED.
    pub end: &'static str,
    /// What stays between its lives.
    pub seat: Seat,
    /// The images are in place, or were when the monitor ended: a reset puts them there again.
    loaded: bool,
    /// A domain stands behind the seat.
    alive: bool,
    /// Where its virtual processors live.
    place: Place,
    /// Physical ranges of this life, for the pool.
    taken: Taken,
    /// The latest of its serial line, for `guest log`.
    pub log: Vec<u8>,
    /// The latest lines of its monitor in this life.
    pub said: level::Kept,
    /// Counts of exits, and when, at the last look or the beginning.
    looked: (u64, [u64; SLOTS]),
    /// How much of the end of the log nobody has seen on the line.
    unseen: usize,
}

/// Bytes of a guest's output that are kept.
const LOG: usize = 16 << 10;
const POLL_US: u64 = 500;

impl Cell {
    /// A guest in state UNKNOWN.
    ///
    /// # Errors
    /// A sentence.
    pub fn new(guest: Guest, maker: &mut Maker<'_>, wake_root: Selector) -> Result<Self, String> {
        let seat = Seat::new(&maker.boot, maker.pool, wake_root)?;
        Ok(Self {
            guest,
            state: State::Unknown,
            end: "",
            seat,
            loaded: false,
            alive: false,
            place: Place::default(),
            taken: Taken::default(),
            log: Vec::new(),
            unseen: 0,
            said: level::Kept::default(),
            looked: (0, [0; SLOTS]),
        })
    }

    /// Carries an operation out, or refuses it and changes nothing.
    ///
    /// # Errors
    /// A sentence. An operation that failed half-way leaves the guest UNKNOWN or HALTED.
    pub fn operate(&mut self, operation: Operation, maker: &mut Maker<'_>) -> Result<(), String> {
        self.state = self.state.scheduled(self.executes());
        let next = self.state.after(operation).map_err(|refused| refused.to_string())?;
        match operation {
            Operation::Create => self.build(maker)?,
            Operation::Kick => self.kick(maker)?,
            Operation::Pause => self.hold(maker.stop_ms)?,
            Operation::Resume => self.seat.order(Order::Run),
            Operation::Halt => {
                self.end = "halted";
                if self.hold(maker.stop_ms).is_err() {
                    self.tear_down(maker);
                }
            }
            Operation::Reset => {
                let loaded = self.loaded;
                self.tear_down(maker);
                // Without a domain there is nothing to reset to.
                self.state = State::Unknown;
                self.build(maker)?;
                if loaded {
                    self.load(maker)?;
                }
            }
            Operation::Destroy => {
                self.tear_down(maker);
                self.loaded = false;
            }
        }
        self.state = next;
        Ok(())
    }

    /// The lines of `exits`.
    pub fn exits(&mut self, tsc_khz: u32) -> Vec<String> {
        let counts = status::counts(self.seat.status());
        let now = rt::instructions::rdtsc();
        let (then, before) = core::mem::replace(&mut self.looked, (now, counts));
        let us = now.saturating_sub(then).saturating_mul(1000) / u64::from(tsc_khz.max(1));
        listing::exits(&counts, &before, us, &status::times(self.seat.status()))
    }

    /// The lines of `ps` about this guest's monitor; none while there is none.
    pub fn threads(&self, cpu: u16) -> Vec<String> {
        let name = &self.guest.name;
        let began = matches!(self.state, State::Ready | State::Running | State::Paused);
        if !self.alive || !began {
            return Vec::new();
        }
        let time_us = rt::calls::sc_time_us(self.seat.sc).unwrap_or(0);
        let first = status::Thread {
            kind: Kind::Streams,
            state: status::State::Waits,
            priority: PRIORITY,
            cpu,
            slice_us: QUANTUM_US,
            time_us,
        };
        let mut lines = alloc::vec![listing::thread(name, "monitor", "waits", &first)];
        if !self.seat.ask() {
            lines.push(format!("{name:15} its monitor does not answer"));
            return lines;
        }
        let held = self.state == State::Paused;
        lines.extend(listing::threads(name, held, status::threads(self.seat.status())));
        lines
    }

    /// The lines of `guest screen`.
    ///
    /// # Errors
    /// A sentence: there is no screen, or no answer.
    pub fn screen(&self) -> Result<Vec<String>, String> {
        if !self.alive || self.state == State::Reset {
            return Err(format!("no screen: the guest is {}", self.state));
        }
        if !self.seat.ask() {
            return Err("no screen: the monitor does not answer".into());
        }
        Ok(screen::lines(self.seat.screen()))
    }

    /// Whether a virtual processor of it lives on this processor of the machine.
    pub fn sits_on(&self, cpu: u16) -> bool {
        self.alive && self.place.cpus.checked_shr(cpu.into()).unwrap_or(0) & 1 != 0
    }

    /// Whether a virtual processor of it is running, as far as its monitor says.
    pub fn executes(&self) -> bool {
        self.seat.out.status() != 0
    }

    /// Puts the images into place; in RESET only.
    ///
    /// # Errors
    /// A sentence; nothing has changed.
    pub fn load(&mut self, maker: &Maker<'_>) -> Result<(), String> {
        if self.state != State::Reset && self.state != State::Unknown || !self.alive {
            return Err(format!("cannot load: the guest is {}; it must be RESET", self.state));
        }
        if self.loaded {
            return Ok(());
        }
        let needed = maker.image_bytes(&self.guest)?;
        if needed > self.guest.memory {
            let memory = self.guest.memory;
            return Err(format!("cannot load: {needed} bytes of images, {memory} of memory"));
        }
        maker.images(&self.guest, self.seat.pd)?;
        self.loaded = true;
        Ok(())
    }

    /// Create, load and kick as far as they are still to be done.
    ///
    /// # Errors
    /// A sentence.
    pub fn start(&mut self, maker: &mut Maker<'_>) -> Result<(), String> {
        if self.state == State::Unknown {
            self.operate(Operation::Create, maker)?;
        }
        if self.state == State::Reset {
            self.load(maker)?;
        }
        self.operate(Operation::Kick, maker)
    }

    /// Halt and reset.
    ///
    /// # Errors
    /// A sentence.
    pub fn stop(&mut self, maker: &mut Maker<'_>) -> Result<(), String> {
        if self.state != State::Halted && self.state != State::Paused {
            self.operate(Operation::Halt, maker)?;
        }
        self.operate(Operation::Reset, maker)
    }

    /// The guest ended by itself, or its monitor did.
    pub fn ended(&mut self, end: &'static str, maker: &mut Maker<'_>) {
        if let Ok(next) = self.state.after(Operation::Halt) {
            self.state = next;
            self.end = end;
        }
        if self.seat.crashed() {
            self.tear_down(maker);
        }
    }

    /// What was printed since the line last showed this guest, as far as the log has it.
    pub fn catch_up(&mut self) -> &[u8] {
        let unseen = core::mem::take(&mut self.unseen);
        let from = self.log.len().saturating_sub(unseen);
        self.log.get(from..).unwrap_or_default()
    }

    /// Keeps the latest output; `seen` says whether it is on the line, too.
    pub fn remember(&mut self, bytes: &[u8], seen: bool) {
        self.log.extend_from_slice(bytes);
        self.unseen = if seen { 0 } else { self.unseen.saturating_add(bytes.len()) };
        let extra = self.log.len().saturating_sub(LOG);
        self.log.drain(..extra);
    }

    fn kick(&mut self, maker: &Maker<'_>) -> Result<(), String> {
        if !self.loaded {
            return Err("cannot kick: no image is loaded; load it first".into());
        }
        self.seat.order(Order::Run);
        maker.thread(&self.seat)
    }

    /// Holds the guest; an error if its monitor does not do so in so many milliseconds.
    fn hold(&self, stop_ms: u32) -> Result<(), String> {
        self.seat.order(Order::Hold);
        for _ in 0..polls(stop_ms) {
            if self.seat.obeyed(Order::Hold) {
                return Ok(());
            }
            rt::sync::sleep_us(POLL_US);
        }
        self.seat.order(Order::Run);
        let bound = match stop_ms {
            1000 => "a second".to_string(),
            other => format!("{other} ms"),
        };
        Err(format!("the monitor does not answer within {bound}; halt or reset the guest"))
    }

    fn build(&mut self, maker: &mut Maker<'_>) -> Result<(), String> {
        self.loaded = false;
        let vcpus = &self.guest.vcpus;
        self.place = maker.cpus.settle(vcpus.count, vcpus.cpus, vcpus.dedicated)?;
        let built = maker.build(&self.guest, &self.seat, self.place.affinity, &mut self.taken);
        self.alive = true;
        if built.is_err() {
            self.tear_down(maker);
        }
        self.end = "";
        self.said.clear();
        self.looked = (rt::instructions::rdtsc(), [0; SLOTS]);
        built
    }

    /// Kernel memory that the monitor uses, and its limit, in bytes; `None` while there is none to ask.
    pub fn kernel_memory(&self) -> Option<(u64, u64)> {
        rt::calls::quota_read(self.seat.pd).ok().filter(|_| self.alive)
    }

    /// Bytes that the monitor has for itself: program and heap.
    pub fn monitor_memory(&self) -> u64 {
        self.taken.bytes().saturating_sub(self.guest.all_memory())
    }

    /// Lets the monitor's threads come to rest, so that nothing of it faults while it is taken apart. One that does not
    /// answer, or has crashed, is not waited for any longer.
    fn quieten(&self, stop_ms: u32) {
        if matches!(self.state, State::Unknown | State::Reset) || self.seat.crashed() {
            return;
        }
        self.seat.order(Order::End);
        for _ in 0..polls(stop_ms) {
            let obeyed = self.seat.obeyed(Order::End);
            // Once more after the answer: who gave it is still on its way to sleep.
            rt::sync::sleep_us(POLL_US);
            if obeyed {
                return;
            }
        }
    }

    /// Takes the domain apart and gives its memory back, clean.
    fn tear_down(&mut self, maker: &mut Maker<'_>) {
        if !core::mem::take(&mut self.alive) {
            return;
        }
        self.quieten(maker.stop_ms);
        maker.shares.leave(&self.guest.name);
        maker.cpus.leave(core::mem::take(&mut self.place));
        self.seat.close();
        // First the memory, with a shoot-down, then the domain: no thread of it can touch a page
        // that is somebody else's by then.
        let revoked = rt::calls::revoke_from(self.seat.pd, Crd::memory(0, ALL_PAGES, MEM_RWX));
        for object in [self.seat.sc, self.seat.ec, self.seat.pd] {
            let _ = rt::calls::revoke(Crd::objects(object, 0, abi::cap::ALL));
        }
        let back = self.taken.give_back(maker.pool, revoked.map_err(refused), loader::scrub);
        if let Err(Kept { bytes, why }) = back {
            let name = &self.guest.name;
            rt::println!("root: {} KiB of {name} are kept out of use: {why}", bytes >> 10);
        }
    }
}

/// How often a monitor's answer is looked for in so many milliseconds.
fn polls(stop_ms: u32) -> u64 {
    u64::from(stop_ms) * 1000 / POLL_US
}

/// Kernel memory that a monitor may use, in bytes: for itself; for each processor's control blocks, pages and threads;
/// and for the page tables of the guest's memory, twice (monitor and guest) in the smallest pages, and of its disks and
/// regions, `others` bytes.
fn quota(guest: &Guest, others: u64) -> u64 {
    const MONITOR: u64 = 4 << 20;
    const PROCESSOR: u64 = 512 << 10;
    MONITOR
        + u64::from(guest.vcpus.count) * PROCESSOR
        + 2 * (guest.all_memory() + others) / (PAGE_SIZE / 8)
}

impl Maker<'_> {
    /// A domain with memory, monitor and seat, in which nothing runs yet.
    fn build(
        &mut self,
        guest: &Guest,
        seat: &Seat,
        affinity: u64,
        taken: &mut Taken,
    ) -> Result<(), String> {
        let program = self.module("vmm")?;
        let file = Window::physical(program.address, program.size, MEM_R).map_err(refused)?;
        let bytes = file.bytes().ok_or("the monitor cannot be read")?;
        let mut order = self.control(guest)?;
        order.affinity = affinity;
        let pd = seat.pd;
        rt::calls::create_pd(pd, own_pd(), Crd::null()).map_err(refused)?;
        // Kernels without our block know no quota; there the domain draws on ours.
        if self.boot.hip.ours().is_some() {
            let others = self.disk_bytes(guest) + guest.region_bytes();
            rt::calls::quota_give(pd, quota(guest, others)).map_err(refused)?;
        }
        let entry = loader::load(self.pool, taken, pd, bytes);
        let entry = entry.map_err(|why| format!("vmm: {why}"));
        file.close().map_err(refused)?;
        let entry = entry?;
        self.memory(pd, guest, taken)?;
        self.heap(pd, guest.vcpus.count, taken)?;
        let devices = self.devices(guest, pd, taken)?;
        let regions = self.regions(guest, pd, taken)?;
        seat.furnish(entry, &order, devices, regions)?;
        give_object(pd, pd, control::SEL_PD, PD_CREATE)
    }

    /// The boot module of this name.
    ///
    /// # Errors
    /// There is none.
    pub fn module(&self, name: &str) -> Result<&Module, String> {
        modules::find(self.modules, name).ok_or(format!("there is no boot module {name}"))
    }

    /// The order for the monitor.
    fn control(&self, guest: &Guest) -> Result<Control, String> {
        let size = |name: &str| self.module(name).map(|module| module.size);
        let (line, boot) = match &guest.image {
            Image::Linux { command_line, .. } => (command_line.as_str(), control::Boot::Linux),
            Image::Flat { address, .. } => ("", control::Boot::Flat(*address)),
            Image::Multiboot { command_line, .. } => {
                (command_line.as_str(), control::Boot::Multiboot)
            }
        };
        let mut order = Control::new(&guest.name, line).ok_or("name or command line too long")?;
        order.boot = boot;
        let mut slots = order.modules.iter_mut();
        for (property, name) in guest.image.modules() {
            if property == "kernel" {
                order.kernel_size = size(name)?;
            } else if let Some(slot) = slots.next() {
                let module = control::Module::new(name, size(name)?);
                *slot = module.ok_or("the name of a module is too long")?;
            }
        }
        order.vcpus = guest.vcpus.count;
        order.priority = guest.vcpus.priority;
        order.slice_us = guest.vcpus.slice_us;
        order.cpus = self.boot.hip.cpus().count().max(1) as u32;
        order.home_cpu = u32::from(self.boot.cpu);
        (order.memory, order.high_memory) = (guest.memory, guest.high_memory);
        if guest.stop_on_unclaimed {
            order.unclaimed = Unclaimed::Stop;
        }
        order.silent_s = guest.silent_s;
        order.tsc_khz = self.boot.hip.tsc_khz();
        order.hip_flags = self.boot.hip.flags();
        let (forced, allowed) = self.boot.hip.vmx_secondary();
        order.secondary_controls = u64::from(forced) | (u64::from(allowed) << 32);
        order.wall_clock = self.wall_clock;
        Ok(order)
    }

    /// The boot modules, read only, where they lie.
    fn images(&self, guest: &Guest, pd: Selector) -> Result<(), String> {
        let mut next = control::INITRD;
        for (property, name) in guest.image.modules() {
            let address = if property == "kernel" { control::KERNEL } else { next };
            let module = self.module(name)?;
            if !module.address.is_multiple_of(PAGE_SIZE) {
                return Err(format!("boot module {name} does not start on a page"));
            }
            loader::give(pd, module.address, module.size, address, MEM_R, Space::Host)?;
            if property != "kernel" {
                next += module.size.next_multiple_of(PAGE_SIZE);
            }
        }
        Ok(())
    }

    /// Guest RAM: readable and writable for the monitor, everything for the guest, in pieces as
    /// large as the machine has them.
    fn memory(&mut self, pd: Selector, guest: &Guest, taken: &mut Taken) -> Result<(), String> {
        let bytes = guest.all_memory();
        let mut done = 0;
        while done < bytes {
            // No piece lies on both sides of the PCI hole.
            let border = if done < guest.memory { guest.memory } else { bytes };
            let at = if done < guest.memory { done } else { layout::HIGH + done - guest.memory };
            let (physical, size) = self
                .pool
                .take_some(border - done, LARGE)
                .ok_or(format!("the machine has no {bytes} bytes for the guest"))?;
            taken.add(physical, size);
            loader::scrub(physical, size)?;
            loader::give(pd, physical, size, control::RAM + done, MEM_RW, Space::Host)?;
            for (start, end, rights) in layout::pieces(at, at + size) {
                let from = physical + (start - at);
                loader::give(pd, from, end - start, start, rights, Space::Guest)?;
            }
            done += size;
        }
        Ok(())
    }

    /// Memory for the monitor's threads.
    fn heap(&mut self, pd: Selector, vcpus: u32, taken: &mut Taken) -> Result<(), String> {
        let bytes = control::heap_size(vcpus);
        let (physical, window) = loader::fresh(self.pool, bytes)?;
        taken.add(physical, bytes);
        window.close().map_err(refused)?;
        loader::give(pd, physical, bytes, control::HEAP, MEM_RW, Space::Host)
    }

    /// The monitor's first thread.
    fn thread(&self, seat: &Seat) -> Result<(), String> {
        rt::calls::create_ec(&CreateEc {
            sel: seat.ec,
            global: true,
            reserved: 0,
            utcb_in_caller: false,
            pd: seat.pd,
            cpu: self.boot.cpu,
            utcb: ROOT_UTCB,
            stack: ROOT_UTCB,
            event_base: control::SEL_EVENTS as u32,
        })
        .map_err(refused)?;
        let started = rt::calls::create_sc(&CreateSc {
            sel: seat.sc,
            owner: own_pd(),
            ec: seat.ec,
            priority: PRIORITY,
            quantum_us: QUANTUM_US,
        });
        if started.is_err() {
            let _ = rt::calls::revoke(Crd::objects(seat.ec, 0, abi::cap::ALL));
        }
        started.map_err(refused)
    }

    /// Bytes of all images of a guest.
    fn image_bytes(&self, guest: &Guest) -> Result<u64, String> {
        guest.image.modules().try_fold(0_u64, |sum, (_, name)| {
            self.module(name).map(|module| sum.saturating_add(module.size))
        })
    }
}
