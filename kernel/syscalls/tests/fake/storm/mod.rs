//! Random calls in great number: every answer that a call can give is met a thousand times, and the rules of
//! `check.rs` hold all along.
//!
//! Three threads, each alone on its CPU: two in the root domain, one in a child of it. Each has fixed objects, which
//! nobody takes away, and a zone of selectors in which everything is made, delegated, revoked and destroyed. Half of
//! the calls aim at the pair of call and answer that was met least.

mod aim;
mod check;
mod pairs;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;

use abi::args::{CreateEc, CreateKp, CreatePd, CreatePt, CreateVcpu, PdCtrl, Reply, Revoke, Words};
use abi::cap::ROOT_PD;
use abi::crd::ItemMeta;
use abi::{Call, Crd, Mtd, Status};
use arch::{Event, GuestVendor, Machine};
use objects::Pd;
use sync::Counted;

use crate::world::{Terminal, World, create_sm, local, status_of, syscall};
use check::Checker;
use pairs::{ELSEWHERE, REACHABLE, UNREACHABLE};

const CPUS: usize = 3;
const FRAMES: usize = 3000;
/// Selectors in which everything comes and goes.
const ZONE: u64 = 64;
const ZONE_ORDER: u8 = 6;
/// The child, in the root domain.
const CHILD: u64 = 1000;
/// Where portals in the zone lead: a servant that answers at once.
const ECHO: u64 = 0x70_0000;
/// Where a servant dies.
const DEATH: u64 = 0x71_0000;
/// Rounds that a call gets before time passes.
const ROUNDS: usize = 40;
/// A second thread on CPU 0, more important, that sleeps on the semaphore three further.
const SECOND: u64 = 1400;

/// Fixed objects of a thread, counted from its base.
#[derive(Clone, Copy)]
enum Fixed {
    /// A semaphore with a great count.
    Full,
    /// One that stays at 0.
    Empty,
    Kp0,
    Kp1,
    Kp2,
    /// A servant on the thread's CPU, with a portal.
    Servant,
    Portal,
    /// A thread that never had time.
    Thread,
    Time,
    /// A domain without a limit, and one that may use nothing more.
    Rich,
    Poor,
    /// A virtual CPU here and one on the next CPU.
    Here,
    There,
    /// A portal on the next CPU, and one whose servant is dead.
    Elsewhere,
    Grave,
    /// What a domain calls itself.
    Own,
}

/// Numbers without order, the same in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, end: u64) -> u64 {
        (self.roll() >> 32) % end.max(1)
    }
}

struct Actor {
    terminal: Terminal,
    pd: Counted<Pd>,
    base: u64,
}

struct Storm {
    world: World,
    actors: Vec<Actor>,
    dice: Dice,
    counts: BTreeMap<(u8, u8), u64>,
    /// Set: the next servant first replies with a semaphore it does not have.
    mistake: Rc<Cell<Option<Status>>>,
    calls: u64,
    checker: Checker,
    /// The second thread on CPU 0.
    second: Terminal,
}

impl Storm {
    fn new(seed: u64) -> Self {
        let world = World::new(CPUS, FRAMES);
        let checker = Checker::new(&world);
        Machine::set_vendor(GuestVendor::Vmx);
        Machine::program(ECHO, |thread| syscall(thread, Reply { semaphore: 0 }.encode()));
        Machine::program(DEATH, |_| Event::Exception { vector: 13, error: 0, cr2: 0 });
        world.must(
            CreatePd { sel: CHILD, passthrough: false, parent: ROOT_PD, crd: Crd::NULL }.encode(),
        );
        let other = world.spawn((1100, 1140), 1, 0x50_0000, 5, &[]);
        other.spin();
        world.rouse(1100);
        let second = world.spawn((SECOND, 1440), 0, 0x52_0000, 9, &[]);
        let in_child = spawn_in_child(&world);
        let child = world.object::<Pd>(CHILD).unwrap();
        let terminals = [world.terminal.clone(), other, in_child];
        let pds = [world.root.pd.clone(), world.root.pd.clone(), child];
        let actors = terminals
            .into_iter()
            .zip(pds)
            .enumerate()
            .map(|(number, (terminal, pd))| Actor { terminal, pd, base: 200 + 64 * number as u64 });
        let mistake: Rc<Cell<Option<Status>>> = Rc::default();
        let actors = actors.collect();
        let mut storm = Storm {
            world,
            actors,
            dice: Dice(seed),
            counts: BTreeMap::new(),
            mistake,
            calls: 0,
            checker,
            second,
        };
        (0..CPUS).for_each(|number| storm.furnish(number));
        storm
    }

    /// Makes the fixed objects of a thread; the child gets its by delegation.
    fn furnish(&mut self, number: usize) {
        let base = self.actors[number].base;
        let at = |what: Fixed| base + what as u64;
        let (cpu, next) = (number as u16, (number as u16 + 1) % CPUS as u16);
        let world = &self.world;
        world.must(create_sm(at(Fixed::Full), 1 << 60));
        world.must(create_sm(at(Fixed::Empty), 0));
        for kp in [Fixed::Kp0, Fixed::Kp1, Fixed::Kp2] {
            world.must(CreateKp { sel: at(kp), owner: ROOT_PD }.encode());
        }
        let mistake = self.mistake.clone();
        let code = ECHO + 0x1000 * (1 + u64::from(cpu));
        // The wrong reply is the code's first visit, its answer the second one's RDI.
        let tried = Cell::new(false);
        let serve = (ROOT_PD, at(Fixed::Servant), at(Fixed::Portal));
        world.serve(serve, cpu, (Mtd::NONE, code), move |thread, _| {
            if tried.replace(false) {
                mistake.set(Status::from_word(thread.registers.rdi));
            } else if mistake.get() == Some(Status::Success) {
                tried.set(true);
                return syscall(thread, Reply { semaphore: 0x3ff_ffff }.encode());
            }
            syscall(thread, Reply { semaphore: 0 }.encode())
        });
        let thread =
            CreateEc { global: true, cpu, event_base: 0x2000, ..local(at(Fixed::Thread), ROOT_PD) };
        world.must(thread.encode());
        let time = abi::args::CreateSc {
            sel: at(Fixed::Time),
            owner: ROOT_PD,
            ec: at(Fixed::Thread),
            priority: 1,
            quantum_us: 10,
        };
        world.must(time.encode());
        for sel in [at(Fixed::Rich), at(Fixed::Poor)] {
            world.must(
                CreatePd { sel, passthrough: false, parent: ROOT_PD, crd: Crd::NULL }.encode(),
            );
        }
        let large = Crd::memory(0x20_0000, 9, 7);
        let meta = (ItemMeta::DELEGATE | ItemMeta::FROM_KERNEL).at(0x20_0000);
        let give = PdCtrl::Delegate {
            source: ROOT_PD,
            destination: at(Fixed::Poor),
            crd: large,
            meta,
            window: large,
        };
        world.must(give.encode());
        world.must([Call::QuotaGive.word(0, at(Fixed::Poor)), 1, 0, 0, 0]);
        for (sel, cpu) in [(at(Fixed::Here), cpu), (at(Fixed::There), next)] {
            let (state, vlapic, fpu) = (at(Fixed::Kp0), at(Fixed::Kp1), at(Fixed::Kp0));
            world.must(CreateVcpu { sel, cpu, parent: ROOT_PD, state, vlapic, fpu }.encode());
        }
        let grave = 1200 + 2 * u64::from(cpu);
        for (ec, pt, cpu) in
            [(grave + 1, at(Fixed::Elsewhere), next), (grave, at(Fixed::Grave), cpu)]
        {
            world.must(CreateEc { cpu, ..local(ec, ROOT_PD) }.encode());
            world.must(
                CreatePt { sel: pt, owner: ROOT_PD, ec, mtd: Mtd::NONE, entry: ECHO }.encode(),
            );
        }
        world.must(
            Revoke { own: true, remote: false, crd: Crd::objects(grave, 0, 0x1f), pd: 0 }.encode(),
        );
        // The thread itself goes by this name in its own space.
        let own = if number == 2 { CHILD } else { ROOT_PD };
        let give = |from: u64, to: u64, order: u8, destination: u64| {
            let (crd, window) = (Crd::objects(from, order, 0x1f), Crd::objects(to, order, 0x1f));
            let meta = ItemMeta::DELEGATE.at(to);
            PdCtrl::Delegate { source: ROOT_PD, destination, crd, meta, window }.encode()
        };
        world.must(give(own, at(Fixed::Own), 0, ROOT_PD));
        if number == 2 {
            // Sixteen at a multiple of sixteen: 328.
            for from in (base..base + 16).step_by(8) {
                world.must(give(from, from, 3, CHILD));
            }
        }
        world.steps(60);
    }

    /// A thread makes a call; `None` if it did not come back although time passed.
    fn call(&mut self, actor: usize, words: Words) -> Option<Status> {
        let charged = self.world.root.pd.account.state().0;
        self.actors[actor].terminal.order(words);
        let status = self.wait(actor, words)?;
        // What costs little is looked at after every call.
        let made = matches!(words[0] as u8, 2..=6 | 16 | 19);
        if made && status != Status::Success {
            let now = self.world.root.pd.account.state().0;
            assert!(now <= charged, "{words:x?} was refused and took memory");
        }
        Some(status)
    }

    /// The rules that hold between any two calls. What is charged is compared with what is used only when nothing
    /// waits to be freed: at every second call the machine is stepped until it is so.
    fn check(&mut self) {
        self.checker.rules(&self.world);
        let quiet = self.world.is_quiet() || (self.dice.below(2) == 0 && self.world.free_garbage());
        if quiet {
            self.checker.charges(&self.world);
        }
    }

    /// All rules, on a settled machine.
    fn check_all(&mut self) {
        self.checker.everything(&self.world);
        for actor in &self.actors {
            let rich = self.world.object::<Pd>(actor.base + Fixed::Rich as u64).unwrap();
            // The root domain alone has memory to give.
            let was_given = actor.pd.trust.privileged;
            check::memory(&self.world, &actor.pd, was_given);
            check::memory(&self.world, &rich, was_given);
        }
    }

    fn wait(&mut self, actor: usize, words: Words) -> Option<Status> {
        for _ in 0..4 {
            for _ in 0..ROUNDS {
                self.world.step(actor);
                if let Some(back) = self.actors[actor].terminal.result() {
                    let status = status_of(&back);
                    // A call leaves RDI as it was, with its flags: only its low byte counts.
                    self.note(words, status);
                    self.check();
                    return Some(status);
                }
            }
            self.world.steps(ROUNDS);
            Machine::advance(1 << 24);
        }
        None
    }

    fn note(&mut self, words: Words, status: Status) {
        let number = words[0] as u8;
        let row = if Call::from_word(words[0]).is_ok() { number } else { 255 };
        self.calls += 1;
        if row == Call::Call as u8 && status == Status::Success {
            *self.counts.entry((Call::Reply as u8, 0)).or_default() += 1;
        }
        *self.counts.entry((row, status as u8)).or_default() += 1;
        if ELSEWHERE.contains(&row) {
            return;
        }
        let known = REACHABLE.iter().any(|(call, all)| *call == row && all.contains(&status));
        let why = UNREACHABLE.iter().find(|(call, one, _)| *call == row && *one == status);
        assert!(known, "call {number} answered {status:?}: {words:x?} ({why:?})");
    }

    /// The pair that was met least.
    fn rarest(&self) -> (u8, Status) {
        let all = REACHABLE.iter().flat_map(|(call, all)| all.iter().map(|one| (*call, *one)));
        all.min_by_key(|pair| self.met(pair)).expect("a pair")
    }

    fn met(&self, (call, status): &(u8, Status)) -> u64 {
        self.counts.get(&(*call, *status as u8)).copied().unwrap_or(0)
    }

    /// Everything in the zones goes.
    fn clear(&mut self) {
        let crd = Crd::objects(ZONE, ZONE_ORDER, 0x1f);
        for actor in [0, 2] {
            let words = Revoke { own: true, remote: false, crd, pd: 0 }.encode();
            assert_eq!(self.call(actor, words), Some(Status::Success));
        }
    }

    fn run(&mut self, calls: u64, every: u64) {
        let mut next = every;
        while self.calls < calls {
            self.one();
            if self.calls >= next {
                next += every;
                self.check_all();
                self.clear();
                let _ = (Machine::take_deeds(), Machine::take_killed());
            }
        }
        self.clear();
        self.check_all();
    }

    /// The table of what was met; fails where a pair was met less than `least` times or successes are under 30 %.
    fn judge(&self, least: u64) {
        let total: u64 = self.counts.values().sum();
        let good: u64 = self.counts.iter().filter(|(pair, _)| pair.1 == 0).map(|(_, n)| n).sum();
        println!("{} calls, {} % succeeded", self.calls, good * 100 / total);
        let Checker { checked, compared, .. } = self.checker;
        println!("rules checked {checked} times, charges {compared} times");
        println!("the rarest pair was met {} times", self.met(&self.rarest()));
        let mut missing = Vec::new();
        for (call, answers) in REACHABLE {
            for answer in *answers {
                let met = self.met(&(*call, *answer));
                println!("{call:>4} {:<8} {met:>9}", format!("{answer:?}"));
                if met < least {
                    missing.push((*call, *answer, met));
                }
            }
        }
        assert!(missing.is_empty(), "met less than {least} times: {missing:?}");
        assert!(good * 100 >= total * 30, "{good} of {total} succeeded");
    }
}

/// A thread of the child on CPU 2, started through a portal of the root domain.
fn spawn_in_child(world: &World) -> Terminal {
    let rip = 0x51_0000;
    let terminal = Terminal::at(rip);
    world.serve((CHILD, 1300, 1301), 2, (Mtd::RIP_LEN, 0x61_0000), move |thread, utcb| {
        utcb.write_u64(abi::utcb::offset::RIP, rip);
        utcb.write_u64(abi::utcb::offset::MTD, Mtd::RIP_LEN.0.into());
        syscall(thread, Reply { semaphore: 0 }.encode())
    });
    let at = 0x1000 + abi::cap::STARTUP;
    let (crd, window) = (Crd::objects(1301, 0, 0x1f), Crd::objects(at, 0, 0x1f));
    let meta = ItemMeta::DELEGATE.at(at);
    let give = PdCtrl::Delegate { source: ROOT_PD, destination: CHILD, crd, meta, window };
    world.must(give.encode());
    world
        .must(CreateEc { global: true, cpu: 2, event_base: 0x1000, ..local(1302, CHILD) }.encode());
    let time =
        abi::args::CreateSc { sel: 1303, owner: ROOT_PD, ec: 1302, priority: 5, quantum_us: 1000 };
    world.must(time.encode());
    world.steps(20);
    terminal
}

#[test]
fn random_calls_meet_every_answer() {
    let mut storm = Storm::new(0x9e37_79b9_7f4a_7c15);
    storm.run(200_000, 2_000);
    storm.judge(500);
}

/// The long tier: `cargo test --release -p syscalls --test fake ten_million -- --ignored --nocapture`.
#[test]
#[ignore = "takes minutes; cargo xtask test --long runs it"]
fn ten_million_random_calls() {
    let mut storm = Storm::new(0x1234_5678_9abc_def1);
    storm.run(10_000_000, 10_000);
    storm.judge(1000);
}
