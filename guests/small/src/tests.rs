//! The tests by name.

use crate::exceptions::{self, raised_by};
use crate::{cost, machine, println, probe, regions, rings, timers};
use core::fmt;

/// #UD.
const UNDEFINED: u8 = 6;
/// #GP.
const PROTECTION: u8 = 13;
/// What `all` stands for: everything that leaves the guest alive.
const ALL: &[&str] = &["hello", "faults", "unclaimed", "pit", "lapic", "deadline"];
/// What `probe` stands for.
const PROBE: &[&str] = &["cpuid", "memory", "ports", "registers"];
/// How long `spin` holds the processor, in milliseconds.
const SPIN_MS: u64 = 2000;

/// A monitor built with the feature `crash` dies of a byte at this port; any other ignores it.
const CRASH: u16 = 0xcad;

/// Why a test failed.
pub enum Failure {
    /// This instruction raised that.
    Raised(&'static str, Option<(u8, u32)>),
    /// Something nobody claims gave this, read with so many bytes.
    Claimed(u64, u32, u64),
    /// A measurement is not what it should be: what, expected, found.
    Off(&'static str, u64, u64),
    /// This instruction with a model-specific register raised that.
    Register(&'static str, u32, Option<(u8, u32)>),
    /// CPUID: leaf, register (EAX is 0), expected, found.
    Leaf(u32, usize, u32, u32),
    /// No such test.
    Unknown,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Raised(what, None) => write!(f, "{what} raised nothing"),
            Self::Raised(what, Some((vector, error))) => {
                write!(f, "{what} raised exception {vector}, error {error:#x}")
            }
            Self::Claimed(at, size, value) => {
                write!(f, "{at:#x} read with {size} bytes gave {value:#x}")
            }
            Self::Off(what, expected, found) => write!(f, "{what}: {found}, not {expected}"),
            Self::Register(what, index, None) => write!(f, "{what} {index:#x} raised nothing"),
            Self::Register(what, index, Some((vector, error))) => {
                write!(f, "{what} {index:#x} raised exception {vector}, error {error:#x}")
            }
            Self::Leaf(leaf, register, expected, found) => {
                write!(f, "CPUID {leaf:#x}[{register}]: {found:#x}, not {expected:#x}")
            }
            Self::Unknown => write!(f, "no such test"),
        }
    }
}

/// Runs one test, or all, and prints its line.
pub fn run(name: &str) {
    let result = match name {
        "all" => return ALL.iter().for_each(|name| run(name)),
        "hello" => Ok(()),
        "faults" => faults(),
        "unclaimed" => unclaimed(),
        "triple" => {
            exceptions::none();
            machine::undefined();
            Err(Failure::Raised("UD2 without gates", None))
        }
        "pit" => return measured(name, timers::pit()),
        "lapic" => return measured(name, timers::lapic()),
        "deadline" => return measured(name, timers::deadline()),
        "spin" => {
            timers::spin(SPIN_MS);
            Ok(())
        }
        "tick" => tick(),
        "cost" => {
            cost::rows();
            Ok(())
        }
        "gap" => timers::gap().map(|us| println!("small: a gap of {us} us")),
        "doze" => machine::doze(),
        "busy" => loop {
            machine::breathe();
        },
        "probe" => return PROBE.iter().for_each(|name| run(name)),
        "cpuid" => probe::cpuid(),
        "memory" => probe::memory(),
        "ports" => probe::ports(),
        "registers" => probe::registers(),
        "rings" => rings::rings(),
        "even" => regions::even(),
        "odd" => regions::odd(),
        "look" => regions::look(),
        "rom" => regions::rom(),
        "firmware" => regions::firmware(),
        "latches" => regions::latches(),
        "count" => {
            let mut count = 0_u64;
            loop {
                count = core::hint::black_box(count + 1);
            }
        }
        "crash-fault" => crash(1),
        "crash-panic" => crash(2),
        "crash-hang" => crash(3),
        _ => Err(Failure::Unknown),
    };
    match result {
        Ok(()) => println!("small: {name} ok"),
        Err(failure) => println!("small: {name} FAIL {failure}"),
    }
}

/// A line every second, for ever.
fn tick() -> Result<(), Failure> {
    for number in 1_u64.. {
        timers::sleep_second()?;
        println!("small: tick {number}");
    }
    Ok(())
}

/// Asks the monitor to die.
fn crash(how: u8) -> Result<(), Failure> {
    machine::out8(CRASH, how);
    Err(Failure::Off("crash of the monitor", 1, 0))
}

fn measured(name: &str, result: Result<timers::Second, Failure>) {
    match result {
        Ok(second) => println!("small: {name} ok {second}"),
        Err(failure) => println!("small: {name} FAIL {failure}"),
    }
}

/// Instructions of virtualization and unknown MSRs are not there.
fn faults() -> Result<(), Failure> {
    let probes: [(&str, fn(), u8); 8] = [
        ("VMXON", machine::vmxon, UNDEFINED),
        ("VMRUN", machine::vmrun, UNDEFINED),
        ("VMCALL", machine::vmcall, UNDEFINED),
        ("VMMCALL", machine::vmmcall, UNDEFINED),
        (
            "RDMSR 0xc0011234",
            || {
                machine::read_msr(0xc001_1234);
            },
            PROTECTION,
        ),
        ("WRMSR 0xc0011234", || machine::put_msr(0xc001_1234, 0), PROTECTION),
        (
            "RDMSR 0x12345678",
            || {
                machine::read_msr(0x1234_5678);
            },
            PROTECTION,
        ),
        ("WRMSR 0x480", || machine::put_msr(0x480, 0), PROTECTION),
    ];
    for (what, probe, vector) in probes {
        let raised = raised_by(probe);
        if raised != Some((vector, 0)) {
            return Err(Failure::Raised(what, raised));
        }
    }
    Ok(())
}

/// Memory and ports without an owner read all ones and drop writes.
fn unclaimed() -> Result<(), Failure> {
    const HOLE: u64 = 0xd000_0000;
    const PORT: u16 = 0x300;
    let memory = || {
        for size in [1, 2, 4, 8] {
            let value = machine::read(HOLE, size);
            if value != u64::MAX >> (64 - size * 8) {
                return Err(Failure::Claimed(HOLE, size, value));
            }
        }
        Ok(())
    };
    memory()?;
    machine::write32(HOLE, 0x1234_5678);
    machine::out8(PORT, 0x12);
    memory()?;
    let ports = [
        (1, u64::from(machine::in8(PORT)), 0xff),
        (2, u64::from(machine::in16(PORT)), 0xffff),
        (4, u64::from(machine::in32(PORT)), 0xffff_ffff),
    ];
    for (size, value, ones) in ports {
        if value != ones {
            return Err(Failure::Claimed(u64::from(PORT), size, value));
        }
    }
    Ok(())
}
