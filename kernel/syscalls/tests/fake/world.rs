//! A machine made of arrays with the kernel's own loop on it, and a root program that does what the test says.
//!
//! Every CPU is stepped by the test, one round of the loop at a time, so any order of events can be tried in one thread.

#[path = "../../../src/run.rs"]
mod run;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use abi::args::{CreateEc, CreatePd, CreatePt, CreateSc, CreateSm, PdCtrl, Revoke, SmCtrl, Words};
use abi::cap::{EC_ALL, PD_CREATE, ROOT_EC, ROOT_PD, ROOT_SC, ROOT_STACK, ROOT_UTCB, SC_CT};
use abi::crd::ItemMeta;
use abi::utcb::offset;
use abi::{Crd, Mtd, Selector, Status};
use arch::{Event, Machine, Registers, Thread, vector};
use objects::{Cpu, Ec, Kernel, Pd, RootParts};
use sync::{AnyCounted, Counted, CpuKey, Pool, Rcu, SharedPage, Site, Token};

/// The kernel's loop does not return, and tests take it round by round.
const _: fn(Cpu, Token) -> ! = run::run_loop;

/// Where the root program's code is.
pub const ROOT_ENTRY: u64 = 0x40_0000;
/// Rounds after which a call that has not come back is taken for lost.
const PATIENCE: usize = 20_000;
/// Rounds of all CPUs in which everything that can be freed is freed.
const SETTLING: usize = 400;

/// User code that makes one call after the other, as told, and keeps the registers with which it came back.
#[derive(Clone, Default)]
pub struct Terminal {
    todo: Rc<RefCell<VecDeque<Words>>>,
    done: Rc<RefCell<VecDeque<Registers>>>,
    is_inside: Rc<Cell<bool>>,
    /// What it does when it has nothing to do: a call whose result nobody wants, or 0 to spin.
    rest: Rc<Cell<Option<Words>>>,
}

impl Terminal {
    /// Such code at an address.
    pub fn at(rip: u64) -> Self {
        let terminal = Self::default();
        let itself = terminal.clone();
        Machine::program(rip, move |thread| itself.step(thread));
        terminal
    }

    fn step(&self, thread: &mut Thread) -> Event {
        if self.is_inside.replace(false) {
            self.done.borrow_mut().push_back(thread.registers.clone());
        }
        let next = self.todo.borrow_mut().pop_front();
        match next {
            Some(words) => {
                self.is_inside.set(true);
                syscall(thread, words)
            }
            None => match self.rest.get() {
                Some(words) => syscall(thread, words),
                None => Event::Interrupt(vector::SPURIOUS),
            },
        }
    }

    /// From now on it spins when it has nothing to do.
    pub fn spin(&self) {
        self.rest.set(None);
    }

    /// The next call it makes.
    pub fn order(&self, words: Words) {
        self.todo.borrow_mut().push_back(words);
    }

    /// The registers after the oldest call that came back.
    pub fn result(&self) -> Option<Registers> {
        self.done.borrow_mut().pop_front()
    }

    /// Whether it waits inside a call.
    pub fn is_inside(&self) -> bool {
        self.is_inside.get()
    }
}

/// The thread makes a call.
pub fn syscall(thread: &mut Thread, words: Words) -> Event {
    let r = &mut thread.registers;
    [r.rdi, r.rsi, r.rdx, r.rax, r.r8] = words;
    Event::Syscall
}

/// The status of a call.
pub fn status_of(registers: &Registers) -> Status {
    Status::from_word(registers.rdi).expect("a status")
}

type Seats = Rc<RefCell<Vec<Option<(Cpu, Token)>>>>;

/// A machine, its kernel, and the root program.
pub struct World {
    pub pool: &'static Pool,
    pub kernel: &'static Kernel,
    pub root: RootParts,
    pub terminal: Terminal,
    seats: Seats,
}

impl World {
    /// A machine of so many CPUs and frames of kernel memory, with the root program started.
    pub fn new(cpus: usize, frames: usize) -> Self {
        let pool = Machine::install(cpus, frames);
        let rcu: &'static Rcu = Box::leak(Box::new(Rcu::new()));
        let hip = pool.alloc_zeroed(0, Site::Boot).expect("the HIP");
        let (first, count) = pool.range();
        let own = first.0..first.0 + count;
        let kernel: &'static Kernel =
            Box::leak(Box::new(Kernel::new(pool, rcu, hip, cpus, own, [0xfee00; 18])));
        let mut seats: Vec<_> = CpuKey::machine()
            .take(cpus)
            .enumerate()
            .map(|(id, key)| {
                Machine::set_cpu(id);
                let cpu = Cpu::new(key, kernel);
                kernel.make_irq_table(id).expect("an interrupt table");
                Some((cpu, rcu.join(id).expect("a token")))
            })
            .collect();
        Machine::set_cpu(0);
        let terminal = Terminal::at(ROOT_ENTRY);
        let (cpu, _) = seats[0].as_mut().expect("CPU 0");
        let root = cpu.make_root(ROOT_UTCB >> 12, ROOT_ENTRY, ROOT_STACK).expect("a root program");
        name(&root.pd, ROOT_PD, root.pd.clone().erase(), PD_CREATE);
        name(&root.pd, ROOT_EC, root.ec.clone().erase(), EC_ALL);
        name(&root.pd, ROOT_SC, root.sc.clone().erase(), SC_CT);
        cpu.start(root.sc.clone());
        let seats: Seats = Rc::new(RefCell::new(seats));
        let others = seats.clone();
        Machine::while_waiting(move || serve(&others));
        Self { pool, kernel, root, terminal, seats }
    }

    /// One round of a CPU.
    pub fn step(&self, cpu: usize) {
        Machine::set_cpu(cpu);
        let (mut seat, mut token) =
            self.seats.borrow_mut()[cpu].take().expect("a CPU that is not running");
        run::round(&mut seat, &mut token);
        self.seats.borrow_mut()[cpu] = Some((seat, token));
        Machine::set_cpu(0);
    }

    /// The root program, which must be the running thread of CPU 0, goes on at another place.
    pub fn jump(&self, rip: u64) {
        let mut seats = self.seats.borrow_mut();
        let (cpu, _) = seats[0].as_mut().expect("CPU 0");
        cpu.state().expect("the root program runs").thread.registers.rip = rip;
    }

    /// While a CPU waits for others this looks on, before they serve it.
    pub fn while_waiting(&self, mut look: impl FnMut() + 'static) {
        let others = self.seats.clone();
        Machine::while_waiting(move || {
            look();
            serve(&others);
        });
    }

    /// Some rounds of every CPU in turn.
    pub fn steps(&self, rounds: usize) {
        let cpus = self.seats.borrow().len();
        for _ in 0..rounds {
            (0..cpus).for_each(|cpu| self.step(cpu));
        }
    }

    /// The root program makes a call; all CPUs are stepped until it comes back.
    pub fn call(&self, words: Words) -> Registers {
        self.terminal.order(words);
        for _ in 0..PATIENCE {
            self.steps(1);
            if let Some(registers) = self.terminal.result() {
                return registers;
            }
        }
        panic!("the call {words:x?} never came back");
    }

    /// The status of such a call.
    pub fn status(&self, words: Words) -> Status {
        status_of(&self.call(words))
    }

    /// A call that must succeed.
    pub fn must(&self, words: Words) -> Registers {
        let registers = self.call(words);
        assert_eq!(status_of(&registers), Status::Success, "{words:x?}");
        registers
    }

    /// Looks at a CPU that is not running.
    pub fn with_cpu<R>(&self, cpu: usize, look: impl FnOnce(&mut Cpu, &Token) -> R) -> R {
        let mut seats = self.seats.borrow_mut();
        let (cpu, token) = seats[cpu].as_mut().expect("a CPU");
        look(cpu, token)
    }

    /// Everything that can be freed is freed.
    pub fn settle(&self) {
        self.steps(SETTLING);
    }

    /// Whether nothing waits to be freed.
    pub fn is_quiet(&self) -> bool {
        let cpus = self.seats.borrow().len();
        (0..cpus).all(|cpu| self.with_cpu(cpu, |cpu, _| !cpu.has_garbage()))
    }

    /// Steps all CPUs until nothing waits to be freed, for a while at most; whether it came to that.
    pub fn free_garbage(&self) -> bool {
        (0..SETTLING).any(|_| {
            self.steps(1);
            self.is_quiet()
        })
    }

    /// Free frames of kernel memory when nothing waits to be freed.
    pub fn free_frames(&self) -> usize {
        self.settle();
        self.pool.free_frames()
    }

    /// What the root program has at a selector.
    pub fn object<T: 'static>(&self, selector: Selector) -> Option<Counted<T>> {
        let seats = self.seats.borrow();
        let (_, token) = seats[0].as_ref().expect("CPU 0");
        let found = self.root.pd.objects.lookup(selector, token)?;
        found.object.downcast::<T>()?.hold()
    }

    /// Permissions at a selector of a domain, 0 for none.
    pub fn permissions(&self, pd: &Pd, selector: Selector) -> u8 {
        let seats = self.seats.borrow();
        let (_, token) = seats[0].as_ref().expect("CPU 0");
        pd.objects.lookup(selector, token).map_or(0, |found| found.permissions)
    }

    /// The UTCB of a context of the root program.
    pub fn utcb(&self, selector: Selector) -> &'static SharedPage {
        self.object::<Ec>(selector).expect("an EC").utcb()
    }

    /// Makes a local context with a portal into it: `code` runs at the portal's entry.
    pub fn serve(
        &self,
        (pd, ec, pt): (Selector, Selector, Selector),
        cpu: u16,
        (mtd, entry): (Mtd, u64),
        code: impl FnMut(&mut Thread, &SharedPage) -> Event + 'static,
    ) {
        let create = CreateEc { cpu, ..local(ec, pd) };
        self.must(create.encode());
        self.must(CreatePt { sel: pt, owner: ROOT_PD, ec, mtd, entry }.encode());
        let (utcb, mut code) = (self.utcb(ec), code);
        Machine::program(entry, move |thread| code(thread, utcb));
    }

    /// Starts a thread of the root domain at `rip`, its startup portal at `base` + 30 made on the way. It takes the
    /// four selectors from `first` on: EC, SC, handler, and a semaphore on which it waits when it has done all
    /// `orders` ([`World::rouse`]).
    pub fn spawn(
        &self,
        (first, base): (Selector, u32),
        cpu: u16,
        rip: u64,
        priority: u8,
        orders: &[Words],
    ) -> Terminal {
        let terminal = Terminal::at(rip);
        orders.iter().for_each(|words| terminal.order(*words));
        self.must(CreateSm { sel: first + 3, owner: ROOT_PD, count: 0 }.encode());
        terminal.rest.set(Some(down(first + 3, 0)));
        let entry = rip + 0x100;
        let startup = Selector::from(base) + abi::cap::STARTUP;
        self.serve(
            (ROOT_PD, first + 2, startup),
            cpu,
            (Mtd::RIP_LEN, entry),
            move |thread, utcb| {
                utcb.write_u64(offset::RIP, rip);
                utcb.write_u64(offset::MTD, Mtd::RIP_LEN.0.into());
                syscall(thread, abi::args::Reply { semaphore: 0 }.encode())
            },
        );
        let ec = CreateEc { global: true, cpu, event_base: base, ..local(first, ROOT_PD) };
        self.must(ec.encode());
        let sc = CreateSc { sel: first + 1, owner: ROOT_PD, ec: first, priority, quantum_us: 1000 };
        self.must(sc.encode());
        self.steps(20);
        terminal
    }

    /// A thread on CPU 1, at the selectors from 110, that does what the test says and else spins.
    pub fn other(&self) -> Terminal {
        let other = self.spawn((110, 200), 1, 0x50_0000, 5, &[]);
        other.spin();
        self.rouse(110);
        other
    }

    /// A spawned thread that waits looks for orders again.
    pub fn rouse(&self, first: Selector) {
        self.must(up(first + 3));
        self.steps(20);
    }
}

/// Counts a semaphore up.
pub const fn up(sm: Selector) -> Words {
    SmCtrl::Up { sm }.encode()
}

/// Takes one from a semaphore, or waits until a TSC value (0: for ever).
pub const fn down(sm: Selector, deadline: u64) -> Words {
    SmCtrl::Down { sm, zero: false, deadline }.encode()
}

/// Makes a semaphore of the root program.
pub const fn create_sm(sel: Selector, count: u64) -> Words {
    CreateSm { sel, owner: ROOT_PD, count }.encode()
}

/// Makes a domain of the root program.
pub const fn create_pd(sel: Selector) -> Words {
    CreatePd { sel, passthrough: false, parent: ROOT_PD, crd: Crd::NULL }.encode()
}

/// Takes back everything at the 2^`order` selectors from `first`, here and elsewhere.
pub const fn revoke(first: Selector, order: u8) -> Words {
    let crd = Crd::objects(first, order, 0x1f);
    Revoke { own: true, remote: false, crd, pd: 0 }.encode()
}

/// From the kernel to a domain: memory or ports, at `at`.
pub fn give(kind: Crd, to: Selector, at: u64, flags: ItemMeta) -> Words {
    let meta = (ItemMeta::DELEGATE | ItemMeta::FROM_KERNEL | flags).at(at);
    let window = Crd::new(kind.kind(), at, kind.order(), 0x1f);
    PdCtrl::Delegate { source: ROOT_PD, destination: to, crd: kind, meta, window }.encode()
}

/// The arguments for a local context without a mapped UTCB on CPU 0.
pub fn local(sel: Selector, pd: Selector) -> CreateEc {
    CreateEc {
        sel,
        global: false,
        reserved: 0,
        utcb_in_caller: false,
        pd,
        cpu: 0,
        utcb: 0,
        stack: 0x7000,
        event_base: 0,
    }
}

/// CPUs that are interrupted for it serve shoot-downs while another one waits for them.
fn serve(seats: &Seats) {
    let cpus = seats.borrow().len();
    for id in 0..cpus {
        let seat = seats.borrow_mut()[id].take();
        if let Some((mut cpu, token)) = seat {
            Machine::set_cpu(id);
            cpu.serve_flush();
            seats.borrow_mut()[id] = Some((cpu, token));
        }
    }
}

fn name(pd: &Pd, selector: Selector, object: AnyCounted, permissions: u8) {
    let slot = pd.slot(selector).expect("a slot");
    let done = slot.create(object, permissions, &pd.objects, selector);
    assert!(done.is_ok(), "selector {selector} was free");
}
