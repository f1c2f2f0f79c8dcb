//! Interrupts: refusals, and one timer that fires.

use crate::world::{NOTHING, World};
use abi::args::IrqCtrl;
use rt::instructions::outb;
use rt::memory::delegate_ports;
use rt::stub::syscall;
use rt::sync::after_us;
use rt::{Selector, Status, calls, probe};

/// The vector used here.
const VECTOR: u8 = 7;
/// The I/O APIC pin of the old timer on a PC.
const TIMER_PIN: u8 = 2;
/// The bit of the kernel page used here.
const BIT: u16 = 77;

/// The family.
pub fn run(world: &mut World) {
    refusals(world);
    timer(world);
}

/// What routing a vector answers.
fn configure(vector: u8, cpu: u16, sm: Selector, kp: Selector) -> Result<(), Status> {
    calls::irq_ctrl(IrqCtrl::ConfigureVector { vector, cpu, sm, kp, bit: BIT }).map(|_| ())
}

/// What routing a pin answers.
fn assign(vector: u8, cpu: u16, ioapic: u8, pin: u8) -> Result<(), Status> {
    let (level, active_low) = (false, false);
    calls::irq_ctrl(IrqCtrl::AssignIoapicPin { vector, cpu, level, active_low, ioapic, pin })
        .map(|_| ())
}

fn refusals(world: &mut World) {
    let sm = world.semaphore();
    let cpu = world.boot.cpu;
    let kp = rt::vcpu::kernel_page().map_or(NOTHING, |(kp, _)| kp);
    let tally = &mut world.tally;
    for sub in 6..16u64 {
        let [rdi, ..] = syscall([18 | sub << 8, 0, 0, 0, 0]);
        tally.equal("no such interrupt operation", rdi, Status::BadPar as u64);
    }
    let (cap, par, off) = (Err(Status::BadCap), Err(Status::BadPar), Err(Status::BadCpu));
    tally.equal("vector too high", configure(192, cpu, sm, kp), par);
    tally.equal("vector before cpu", configure(192, 200, sm, kp), par);
    tally.equal("cpu that is not", configure(VECTOR, 200, sm, kp), off);
    tally.equal("cpu before capabilities", configure(VECTOR, 200, NOTHING, kp), off);
    tally.equal("page without semaphore", configure(VECTOR, cpu, NOTHING, kp), cap);
    tally.equal("semaphore without page", configure(VECTOR, cpu, sm, NOTHING), cap);
    tally.equal("neither", configure(VECTOR, cpu, NOTHING, NOTHING), Ok(()));
    tally.equal("both", configure(VECTOR, cpu, sm, kp), Ok(()));
    tally.equal("and off", configure(VECTOR, cpu, NOTHING, NOTHING), Ok(()));
    tally.equal("pin for a vector too high", assign(192, cpu, 0, 0), par);
    tally.equal("pin for a cpu that is not", assign(VECTOR, 200, 0, 0), off);
    let known = |id: u8| world.boot.hip.ioapics().any(|io| (io.id >> 24 & 0xf) as u8 == id);
    let unknown = (0..16).find(|id| !known(*id)).unwrap_or(15);
    let tally = &mut world.tally;
    tally.equal("pin of no io apic", assign(VECTOR, cpu, unknown, 0), par);
    let first = world.boot.hip.ioapics().next().map_or(0, |io| (io.id >> 24 & 0xf) as u8);
    let tally = &mut world.tally;
    tally.equal("pin that is not", assign(VECTOR, cpu, first, 250), par);
    let mask = IrqCtrl::MaskIoapicPin { mask: true, ioapic: unknown, pin: 0 };
    tally.equal("mask at no io apic", calls::irq_ctrl(mask).map(|_| ()), par);
    let msi = IrqCtrl::AssignMsi { vector: VECTOR, cpu, device: 0x6000_0000_0000 };
    tally.equal("device that is not mapped", calls::irq_ctrl(msi), Err(Status::BadDev));
    let lvt = |vector, lvt| calls::irq_ctrl(IrqCtrl::AssignLvt { vector, lvt }).map(|_| ());
    tally.equal("local source for a vector too high", lvt(192, 0), par);
    tally.equal("local source that is not", lvt(VECTOR, 1), par);
}

/// Lets the old timer fire once, after about a millisecond.
fn fire() {
    outb(0x43, 0x30);
    outb(0x40, 0xa9);
    outb(0x40, 0x04);
}

fn timer(world: &mut World) {
    let sm = world.semaphore();
    let cpu = world.boot.cpu;
    let Some(ioapic) = world.boot.hip.ioapics().next() else { return };
    let id = (ioapic.id >> 24 & 0xf) as u8;
    let Ok((kp, page)) = rt::vcpu::kernel_page() else { return };
    let word = page.as_ptr() as u64 + u64::from(BIT / 64) * 8;
    let bit = 1u64 << (BIT % 64);
    let tally = &mut world.tally;
    tally.equal("timer ports", delegate_ports(0x40, 2), Ok(()));
    tally.equal("timer vector", configure(VECTOR, cpu, sm, kp), Ok(()));
    tally.equal("timer pin", assign(VECTOR, cpu, id, TIMER_PIN), Ok(()));
    fire();
    tally.equal("interrupt raises the semaphore", calls::sm_down(sm, after_us(500_000)), Ok(()));
    tally.equal("and sets the bit", probe::read(word), Some(bit));
    fire();
    let quiet = calls::sm_down(sm, after_us(50_000));
    tally.equal("a set bit keeps it quiet", quiet, Err(Status::Timeout));
    let _ = probe::write(word, 0);
    fire();
    tally.equal("a cleared one does not", calls::sm_down(sm, after_us(500_000)), Ok(()));
    let _ = probe::write(word, 0);
    let mask = |mask| {
        calls::irq_ctrl(IrqCtrl::MaskIoapicPin { mask, ioapic: id, pin: TIMER_PIN }).map(|_| ())
    };
    tally.equal("mask", mask(true), Ok(()));
    fire();
    let masked = calls::sm_down(sm, after_us(50_000));
    tally.equal("a masked pin is quiet", masked, Err(Status::Timeout));
    tally.equal("unmask", mask(false), Ok(()));
    let _ = calls::sm_down(sm, after_us(20_000));
    let _ = probe::write(word, 0);
    fire();
    tally.equal("an unmasked one is not", calls::sm_down(sm, after_us(500_000)), Ok(()));
    tally.equal("off", configure(VECTOR, cpu, NOTHING, NOTHING), Ok(()));
    let _ = mask(true);
}

/// The vector that nobody owns.
pub const STRAY: u8 = 9;

/// Lets the old timer fire once at a vector without configuration.
pub fn stray(world: &World) -> Result<(), Status> {
    let id = world.boot.hip.ioapics().next().map_or(0, |io| (io.id >> 24 & 0xf) as u8);
    assign(STRAY, world.boot.cpu, id, TIMER_PIN)?;
    fire();
    rt::sync::sleep_us(20_000);
    let mask = IrqCtrl::MaskIoapicPin { mask: true, ioapic: id, pin: TIMER_PIN };
    calls::irq_ctrl(mask).map(|_| ())
}
