//! One guest: its domain, what its monitor gets, the monitor's first thread.
use crate::loader::{self, Space};
use crate::pages::words;
use abi::args::{CreateEc, CreateSc};
use abi::cap::{MEM_R, MEM_RW, MEM_RWX, PD_CREATE, ROOT_HIP, ROOT_UTCB, SM_DOWN, SM_UP, STARTUP};
use abi::utcb::offset;
use abi::{Crd, Mtd, PAGE_SIZE, Selector, Status, TypedItem};
use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use root::manifest::{Guest, Image};
use root::modules::{self, Module};
use root::pool::Pool;
use rt::Boot;
use rt::memory::Window;
use rt::portal::Servant;
use rt::start::own_pd;
use rt::sync::Semaphore;
use rt::{last_words, selectors};
use vmm::channel::Channel;
use vmm::control::{self, Control, Unclaimed};
use vmm::layout;

/// Priority of a monitor's first thread: below the console, above its guest.
const PRIORITY: u8 = 12;
const QUANTUM_US: u32 = 10_000;
const LARGE: u64 = 2 << 20;

/// A guest that was started.
pub struct Running {
    /// Its name.
    pub name: String,
    /// What its serial line sends.
    pub out: Channel<'static>,
    /// What its serial line gets.
    pub keys: Channel<'static>,
    /// What its monitor says.
    pub messages: Channel<'static>,
    /// Up after something was put into `keys`.
    pub wake: Semaphore,
    /// Its end was told.
    pub ended: bool,
}

/// What all guests are made from.
pub struct Maker<'a> {
    /// The machine.
    pub boot: Boot,
    /// Free memory.
    pub pool: &'a mut Pool,
    /// Boot modules.
    pub modules: &'a [Module],
    /// Up when a monitor has something for the console.
    pub wake_root: Selector,
    /// Seconds since 1970, 0 if unknown.
    pub wall_clock: u64,
}

impl Maker<'_> {
    /// Starts a guest.
    ///
    /// # Errors
    /// A sentence; nothing of the guest runs then.
    pub fn start(&mut self, guest: &Guest) -> Result<Running, String> {
        let program = self.module("vmm")?;
        let file = Window::physical(program.address, program.size, MEM_R).map_err(refused)?;
        let file = file.bytes().ok_or("the monitor cannot be read")?;
        let pd = selectors::allocate();
        rt::calls::create_pd(pd, own_pd(), Crd::null()).map_err(refused)?;
        let entry = loader::load(self.pool, pd, file).map_err(|why| format!("vmm: {why}"))?;
        let order = self.control(guest)?;
        self.images(guest, pd)?;
        self.memory(pd, guest.memory)?;
        self.pages(pd, &order)?;
        self.heap(pd, guest.vcpus)?;
        let out = self.channel(pd, control::GUEST_OUT)?;
        let keys = self.channel(pd, control::GUEST_IN)?;
        let messages = self.channel(pd, control::MESSAGES)?;
        let wake = Semaphore::new(0).map_err(refused)?;
        give_object(pd, pd, control::SEL_PD, PD_CREATE)?;
        give_object(pd, self.wake_root, control::SEL_WAKE_ROOT, SM_UP)?;
        give_object(pd, wake.selector(), control::SEL_WAKE_MONITOR, SM_DOWN)?;
        self.thread(pd, entry)?;
        Ok(Running { name: guest.name.clone(), out, keys, messages, wake, ended: false })
    }

    fn module(&self, name: &str) -> Result<&Module, String> {
        modules::find(self.modules, name).ok_or(format!("there is no boot module {name}"))
    }

    /// The order for the monitor.
    fn control(&self, guest: &Guest) -> Result<Control, String> {
        let size = |name: &str| self.module(name).map(|module| module.size);
        let (line, boot, kernel, initrd) = match &guest.image {
            Image::Linux { kernel, initrd, command_line } => {
                (command_line.as_str(), control::Boot::Linux, kernel, initrd.as_ref())
            }
            Image::Flat { kernel, address } => ("", control::Boot::Flat(*address), kernel, None),
        };
        let mut order = Control::new(&guest.name, line).ok_or("name or command line too long")?;
        order.boot = boot;
        order.kernel_size = size(kernel)?;
        order.initrd_size = initrd.map_or(Ok(0), |name| size(name))?;
        order.vcpus = guest.vcpus;
        order.cpus = self.boot.hip.cpus().count().max(1) as u32;
        order.home_cpu = u32::from(self.boot.cpu);
        order.memory = guest.memory;
        if guest.stop_on_unclaimed {
            order.unclaimed = Unclaimed::Stop;
        }
        order.tsc_khz = self.boot.hip.tsc_khz();
        order.hip_flags = self.boot.hip.flags();
        let (forced, allowed) = self.boot.hip.vmx_secondary();
        order.secondary_controls = u64::from(forced) | (u64::from(allowed) << 32);
        order.wall_clock = self.wall_clock;
        Ok(order)
    }

    /// The boot modules, read only, where they lie.
    fn images(&self, guest: &Guest, pd: Selector) -> Result<(), String> {
        let (kernel, initrd) = match &guest.image {
            Image::Linux { kernel, initrd, .. } => (kernel, initrd.as_ref()),
            Image::Flat { kernel, .. } => (kernel, None),
        };
        let give = |name: &str, address| {
            let module = self.module(name)?;
            if !module.address.is_multiple_of(PAGE_SIZE) {
                return Err(format!("boot module {name} does not start on a page"));
            }
            loader::give(pd, module.address, module.size, address, MEM_R, Space::Host)
        };
        give(kernel, control::KERNEL)?;
        initrd.map_or(Ok(()), |name| give(name, control::INITRD))
    }

    /// Guest RAM: readable and writable for the monitor, everything for the guest, in pieces as
    /// large as the machine has them.
    fn memory(&mut self, pd: Selector, bytes: u64) -> Result<(), String> {
        let mut done = 0;
        while done < bytes {
            let (physical, size) = self
                .pool
                .take_some(bytes - done, LARGE)
                .ok_or(format!("the machine has no {bytes} bytes for the guest"))?;
            let window = Window::physical(physical, size, MEM_RW).map_err(refused)?;
            window.fill(0).ok_or("guest memory is not writable")?;
            loader::unmap(&window);
            loader::give(pd, physical, size, control::RAM + done, MEM_RW, Space::Host)?;
            for (start, end) in around_hole(done, done + size) {
                let from = physical + (start - done);
                loader::give(pd, from, end - start, start, MEM_RWX, Space::Guest)?;
            }
            done += size;
        }
        Ok(())
    }

    /// Memory for the monitor's threads.
    fn heap(&mut self, pd: Selector, vcpus: u32) -> Result<(), String> {
        let bytes = control::heap_size(vcpus);
        let (physical, window) = loader::fresh(self.pool, bytes)?;
        loader::unmap(&window);
        loader::give(pd, physical, bytes, control::HEAP, MEM_RW, Space::Host)
    }

    /// The order, and an information page without memory map: a monitor needs the clock of it.
    fn pages(&mut self, pd: Selector, order: &Control) -> Result<(), String> {
        let page = loader::shared_page(self.pool, pd, control::CONTROL, MEM_R)?;
        for (index, word) in order.encode().into_iter().enumerate() {
            page.write(index * 8, word).ok_or("the control page is short")?;
        }
        let hip = loader::shared_page(self.pool, pd, ROOT_HIP, MEM_R)?;
        let head = self.boot.hip.0.get(..abi::hip::MEMORY_OFFSET).unwrap_or_default();
        hip.copy_in(0, head).ok_or("the information page is short")?;
        Ok(())
    }

    fn channel(&mut self, pd: Selector, address: u64) -> Result<Channel<'static>, String> {
        let page = loader::shared_page(self.pool, pd, address, MEM_RW)?;
        words(page).and_then(Channel::new).ok_or("a channel is short".to_string())
    }

    /// Portals for its events, then the thread itself.
    fn thread(&self, pd: Selector, entry: u64) -> Result<(), String> {
        let cpu = self.boot.cpu;
        let handler = move |event: u64, utcb: &mut rt::Utcb| {
            if event == STARTUP {
                utcb.set(offset::RIP, entry);
                utcb.set(offset::RDI, u64::from(cpu));
                utcb.set_mtd(Mtd::RIP_LEN | Mtd::BSD);
            } else {
                last_words::report(event, utcb);
            }
        };
        let servant = Servant::new(cpu, Box::new(handler)).map_err(refused)?;
        for event in 0..=STARTUP {
            let mtd = if event == STARTUP { Mtd::RSP | Mtd::BSD } else { last_words::MTD };
            let portal = servant.new_portal(mtd, event).map_err(refused)?;
            give_object(pd, portal, control::SEL_EVENTS + event, abi::cap::PT_ALL)?;
        }
        let ec = selectors::allocate();
        rt::calls::create_ec(&CreateEc {
            sel: ec,
            global: true,
            reserved: 0,
            utcb_in_caller: false,
            pd,
            cpu,
            utcb: ROOT_UTCB,
            stack: ROOT_UTCB,
            event_base: control::SEL_EVENTS as u32,
        })
        .map_err(refused)?;
        let sc = selectors::allocate();
        rt::calls::create_sc(&CreateSc {
            sel: sc,
            owner: own_pd(),
            ec,
            priority: PRIORITY,
            quantum_us: QUANTUM_US,
        })
        .map_err(refused)
    }
}

/// A range of guest-physical addresses without the legacy hole.
fn around_hole(start: u64, end: u64) -> impl Iterator<Item = (u64, u64)> {
    let hole = layout::LEGACY_HOLE;
    let pieces = [(start, end.min(hole.start)), (start.max(hole.end), end)];
    pieces.into_iter().filter(|(start, end)| start < end)
}

fn give_object(pd: Selector, object: Selector, at: Selector, rights: u8) -> Result<(), String> {
    let item = TypedItem::delegate(Crd::objects(object, 0, rights), at);
    let window = Crd::objects(at, 0, abi::cap::ALL);
    rt::calls::delegate(own_pd(), pd, item, window).map(|_| ()).map_err(refused)
}

fn refused(status: Status) -> String {
    format!("the kernel answers {status}")
}
