//! What exists: the kernel's objects, the spaces of a domain, and what one CPU is doing.
//!
//! ```text
//!   Kernel ── pool, slabs, one Remote per CPU (what others may touch)
//!   Cpu    ── key, current thread, run queue, deadlines (what nobody else may touch)
//!
//!   Pd ── Account, object space, Memory (host, guest), port bitmaps
//!   Ec ── state opened by its CPU's key      Sc ── time for an Ec      Pt ── a door into a local Ec
//!   Sm ── count, waiting Scs                 Kp ── a page shared with the kernel      Vcpu ── a guest's CPU
//! ```
//!
//! An object dies when its creator's capability goes (`kill.rs`); its memory returns when nobody counts it any more
//! and a grace period has passed. This room does not read system-call arguments.

#![cfg_attr(target_os = "none", no_std)]
#![forbid(unsafe_code)]

mod account;
#[cfg(not(target_os = "none"))]
mod audit;
mod burial;
mod chain;
mod cpu;
mod deadlines;
mod ec;
mod frames;
mod guest;
mod irq;
mod kill;
mod kp;
mod loaded;
mod log;
pub mod machine;
mod make;
mod memory;
mod microcode;
mod pd;
mod ports;
mod pt;
mod remote;
mod sc;
mod schedule;
mod sleep;
mod sm;
mod vcpu;

pub use account::{Account, Charge};
pub use arch::Quick;
pub use chain::{Entered, Help, Passed, Reply};
pub use cpu::Cpu;
pub use deadlines::{Deadlines, Due, HasDue};
pub use ec::{Attention, Ec, EcState, Frees, Item, Kind, Moving, Resume, USER_FLAGS};
pub use frames::OwnedFrames;
pub use guest::{GuestStop, RunOrder};
pub use irq::{IrqTable, VectorUse};
pub use kill::{EFFORT, Effort};
pub use kp::Kp;
pub use log::Log;
pub use make::RootParts;
pub use memory::{Memory, Progress, Target, Transfer};
pub use microcode::{Microcode, Refused};
pub use pd::{NewSlot, Pd, Trust};
pub use ports::{PORTS, PortNode, PortTree, Source};
pub use pt::Pt;
pub use remote::{Remote, Work};
pub use sc::{Sc, ScState};
pub use schedule::RunQueue;
pub use sleep::{Awake, Sleep, waking_vector};
pub use sm::Sm;
pub use vcpu::{Vcpu, VcpuState};

use logic::addr::Frame;
use sync::{MAX_CPUS, Pool, Rcu, Site, Slab, SpinLock};

/// Everything that all CPUs share, made once at start-up and never moved.
pub struct Kernel {
    /// All kernel memory.
    pub pool: &'static Pool,
    /// Grace periods.
    pub rcu: &'static Rcu,
    /// Quota accounts.
    pub accounts: Slab<Account>,
    /// Protection domains.
    pub pds: Slab<Pd>,
    /// Execution contexts.
    pub ecs: Slab<Ec>,
    /// Scheduling contexts.
    pub scs: Slab<Sc>,
    /// Portals.
    pub pts: Slab<Pt>,
    /// Semaphores.
    pub sms: Slab<Sm>,
    /// Kernel pages.
    pub kps: Slab<Kp>,
    /// Virtual CPUs.
    pub vcpus: Slab<Vcpu>,
    /// Who may use which I/O ports.
    pub port_nodes: Slab<PortNode>,
    /// The delegation tree of ports.
    pub ports: SpinLock<PortTree>,
    /// Interrupt tables, one per CPU.
    pub irq_tables: Slab<IrqTable>,
    /// What other CPUs may touch of each CPU.
    pub remotes: [Remote; MAX_CPUS],
    /// The page of the hypervisor information page.
    pub hip: Frame,
    /// How many CPUs run.
    pub cpus: usize,
    /// First frame and end of what user space may never have: the kernel image and the pool.
    pub own: core::ops::Range<u64>,
    /// Single frames of interrupt controllers, holes for delegation (0 = unused).
    pub controllers: [u64; 18],
    /// What happened, for whoever reads it.
    pub log: Log,
    /// The microcode that is being loaded.
    pub microcode: Microcode,
    /// The suspension that is under way.
    pub sleep: Sleep,
}

/// An object that capabilities name.
pub trait Kept: Sized + 'static {
    /// Where all objects of this kind live.
    fn slab(kernel: &'static Kernel) -> &'static Slab<Self>;
}

macro_rules! kept {
    ($($kind:ty: $slab:ident),*) => {
        $(impl Kept for $kind {
            #[inline(always)]
            fn slab(kernel: &'static Kernel) -> &'static Slab<Self> {
                &kernel.$slab
            }
        })*
    };
}

kept!(Pd: pds, Ec: ecs, Sc: scs, Pt: pts, Sm: sms, Kp: kps, Vcpu: vcpus);

impl Kernel {
    /// The shared state over a pool, before any object exists.
    pub fn new(
        pool: &'static Pool,
        rcu: &'static Rcu,
        hip: Frame,
        cpus: usize,
        own: core::ops::Range<u64>,
        controllers: [u64; 18],
    ) -> Kernel {
        Kernel {
            pool,
            rcu,
            accounts: Slab::new(pool, rcu, Site::Account),
            pds: Slab::<Pd>::new(pool, rcu, Site::Pd).in_portions(),
            ecs: Slab::new(pool, rcu, Site::Ec),
            scs: Slab::new(pool, rcu, Site::Sc),
            pts: Slab::new(pool, rcu, Site::Pt),
            sms: Slab::new(pool, rcu, Site::Sm),
            kps: Slab::new(pool, rcu, Site::Kp),
            vcpus: Slab::new(pool, rcu, Site::Vcpu),
            port_nodes: Slab::new(pool, rcu, Site::PortNode),
            ports: SpinLock::new(PortTree::new()),
            irq_tables: Slab::new(pool, rcu, Site::IrqTable),
            remotes: [const { Remote::new() }; MAX_CPUS],
            hip,
            cpus,
            own,
            controllers,
            log: Log::new(),
            microcode: Microcode::new(),
            sleep: Sleep::new(),
        }
    }

    /// What others may touch of CPU `cpu` (modulo the maximum, which no number exceeds).
    pub fn remote(&self, cpu: usize) -> &Remote {
        &self.remotes[cpu % MAX_CPUS]
    }

    /// Whether a CPU number names a CPU that runs.
    pub fn is_online(&self, cpu: u64) -> bool {
        cpu < self.cpus as u64 && arch::cpu_online(cpu as usize)
    }
}
