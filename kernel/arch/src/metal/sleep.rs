//! Suspend to memory (ACPI S3) and the way back.
//!
//! Every CPU comes to [`sleep`] with nothing but its loop below it. It keeps what the hardware loses, and leaves its stack
//! as it is. The boot CPU writes the sleep registers last. Firmware wakes it at the start block (`smp`), it goes through
//! the same bring-up as at boot and back to its stack; then it starts the others, who do the same.
//!
//! ```text
//!   all:   keep registers -> leave the stack -> others halt, the boot CPU writes PM1 control ... power is gone
//!   wake:  start block -> bring-up -> [other CPUs: start block -> bring-up] -> barrier -> back to the stack
//! ```

use core::arch::{asm, global_asm};
use core::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, AtomicUsize, Ordering};

use x86_64::instructions::port::Port;
use x86_64::registers::control::{Cr0, Cr0Flags};

use super::smp::{self, StartBlock};
use super::{
    apic, bring_up, clock, fpu, guest_vendor, ioapic, percpu, pic, read_msr, serial, vmx_active,
    vmx_host, write_msr,
};
use crate::{GuestVendor, MAX_CPUS};

global_asm!(include_str!("sleep.S"));

unsafe extern "C" {
    fn sleep_leave(place: *mut u64, last: extern "C" fn() -> !);
    fn sleep_return(stack: u64) -> !;
}

/// PM1 control: sleep type from bit 10 on, sleep enable (ACPI 6.4, 4.8.3.2.1).
const SLEEP_TYPE: u16 = 7 << 10;
const SLEEP_ENABLE: u16 = 1 << 13;
/// How long the machine may take to lose power.
const PATIENCE_US: u64 = 1_000_000;

/// PM1a and PM1b control: I/O ports, 0 for none.
static PORTS: [AtomicU16; 2] = [const { AtomicU16::new(0) }; 2];
/// The sleep types that are to be written there.
static TYPES: [AtomicU16; 2] = [const { AtomicU16::new(0) }; 2];
/// Where each CPU's stack was left; 0 while it is awake.
static STACKS: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];
/// CPUs that have halted.
static HALTED: AtomicUsize = AtomicUsize::new(0);
/// The boot CPU came back through the start block.
static SLEPT: AtomicBool = AtomicBool::new(false);

/// Notes the PM1 control registers.
pub fn note_sleep_ports(pm1a: u16, pm1b: u16) {
    PORTS[0].store(pm1a, Ordering::Relaxed);
    PORTS[1].store(pm1b, Ordering::Relaxed);
}

/// Where firmware must jump, in real mode, to wake the machine: a physical address. Nothing if this machine cannot be
/// suspended: it has no PM1 control register in I/O space, or no low memory for the start block.
#[must_use]
pub fn waking_vector() -> Option<u64> {
    let place = smp::place();
    (PORTS[0].load(Ordering::Relaxed) != 0 && place != 0).then_some(place)
}

/// Where the stack of CPU number `cpu` was left; 0 while it is awake.
pub fn left_stack(cpu: usize) -> u64 {
    STACKS[cpu % MAX_CPUS].load(Ordering::Relaxed)
}

/// Suspends the machine with these sleep types: all CPUs call it, when none of them waits for another. Returns on each
/// of them when all are up again; false if the machine did not lose power.
#[must_use]
pub fn sleep(types: [u8; 2]) -> bool {
    let cpu = percpu::cpu_number();
    let mut kept = Kept::EMPTY;
    kept.fill();
    if guest_vendor() == GuestVendor::Vmx {
        vmx_active::clear_all();
    }
    let is_boot_cpu = cpu == smp::boot_cpu();
    let block = if is_boot_cpu { prepare(types) } else { None };
    if !is_boot_cpu || block.is_some() {
        // SAFETY: `halt` never returns; whoever calls `sleep_return` does so on this CPU, once, with the kept value, and
        // until then nothing touches this stack above it (`smp` starts a CPU below it).
        unsafe { sleep_leave(STACKS[cpu % MAX_CPUS].as_ptr(), halt) };
    }
    STACKS[cpu % MAX_CPUS].store(0, Ordering::Relaxed);
    kept.restore();
    if let Some(block) = block {
        ioapic::restore_masked();
        wake_others(&block);
        drop(block);
        smp::meet();
    }
    SLEPT.load(Ordering::Acquire)
}

/// What the boot CPU does first: the start block is where firmware will jump.
fn prepare(types: [u8; 2]) -> Option<StartBlock> {
    for (place, value) in TYPES.iter().zip(types) {
        place.store(u16::from(value), Ordering::Relaxed);
    }
    SLEPT.store(false, Ordering::Relaxed);
    ioapic::keep();
    StartBlock::new(smp::place()).ok()
}

/// The last thing before power goes.
extern "C" fn halt() -> ! {
    flush_caches();
    let cpu = percpu::cpu_number();
    if cpu != smp::boot_cpu() {
        if guest_vendor() == GuestVendor::Vmx {
            vmx_host::vmxoff();
        }
        HALTED.fetch_add(1, Ordering::AcqRel);
        super::stop();
    }
    while HALTED.load(Ordering::Acquire) < smp::others() {
        core::hint::spin_loop();
    }
    HALTED.store(0, Ordering::Relaxed);
    smp::before_sleep(wake);
    write_types();
    clock::wait_us(PATIENCE_US);
    // It did not: the others are woken as if it had.
    come_back(cpu)
}

/// Writes the sleep types, then again with the enable bit: some machines want two writes (ACPI 6.4, 16.1.6).
fn write_types() {
    for enable in [0, SLEEP_ENABLE] {
        for (port, value) in PORTS.iter().zip(&TYPES) {
            let port = port.load(Ordering::Relaxed);
            if port == 0 {
                continue;
            }
            let mut port = Port::<u16>::new(port);
            let value = value.load(Ordering::Relaxed) << 10 & SLEEP_TYPE;
            // SAFETY: the control register that ACPI names; all CPUs are ready to lose power.
            unsafe {
                let others = port.read() & !(SLEEP_TYPE | SLEEP_ENABLE);
                port.write(others | value | enable);
            }
        }
    }
}

/// The first Rust on the boot CPU after it woke, on its own stack below what was left there.
extern "C" fn wake(cpu: usize) -> ! {
    percpu::adopt(cpu);
    serial::start();
    pic::silence();
    smp::bring_up_again();
    SLEPT.store(true, Ordering::Release);
    come_back(cpu)
}

/// Back to where `sleep` left.
pub fn come_back(cpu: usize) -> ! {
    // SAFETY: what `sleep_leave` kept on this CPU, whose stack nobody touched above it.
    unsafe { sleep_return(left_stack(cpu)) }
}

fn wake_others(block: &StartBlock) {
    for cpu in (0..smp::cpu_count()).filter(|cpu| *cpu != percpu::cpu_number()) {
        if smp::cpu_online(cpu) && !block.start(cpu, apic::msi_target(cpu)) {
            log::error!("CPU {cpu} did not come back");
        }
    }
}

/// WBINVD: memory has everything.
fn flush_caches() {
    // SAFETY: writes caches back; no memory changes its contents.
    unsafe { asm!("wbinvd", options(nostack, preserves_flags)) };
}

/// The registers that bring-up does not set, because at boot they have no contents yet.
const MSRS: [u32; 2] = [FS_BASE, KERNEL_GS_BASE];
const FS_BASE: u32 = 0xc000_0100;
const KERNEL_GS_BASE: u32 = 0xc000_0102;

/// MTRR registers (Intel SDM vol. 3, 11.11): capabilities, default, fixed ones, first variable one.
const MTRR_CAPABILITIES: u32 = 0xfe;
const MTRR_DEFAULT: u32 = 0x2ff;
const MTRR_FIXED: [u32; 11] =
    [0x250, 0x258, 0x259, 0x268, 0x269, 0x26a, 0x26b, 0x26c, 0x26d, 0x26e, 0x26f];
const MTRR_VARIABLE: u32 = 0x200;
const MOST_VARIABLE: usize = 2 * 16;

/// What a CPU loses and gets back.
struct Kept {
    space: u64,
    msrs: [u64; MSRS.len()],
    thermal: u32,
    memory_types: [u64; 1 + MTRR_FIXED.len() + MOST_VARIABLE],
    fpu: fpu::Area,
}

/// Numbers of the MTRRs of this CPU, the default last: it switches the others on.
fn memory_type_registers() -> impl Iterator<Item = u32> {
    let capabilities = read_msr(MTRR_CAPABILITIES).unwrap_or(0);
    let variable = 2 * (capabilities as u32 & 0xff).min(MOST_VARIABLE as u32 / 2);
    let fixed = if capabilities >> 8 & 1 != 0 { &MTRR_FIXED[..] } else { &[] };
    let variable = MTRR_VARIABLE..MTRR_VARIABLE + variable;
    fixed.iter().copied().chain(variable).chain(core::iter::once(MTRR_DEFAULT))
}

impl Kept {
    /// Nothing yet. (Filled where it stays: stacks are small.)
    const EMPTY: Self = Self {
        space: 0,
        msrs: [0; MSRS.len()],
        thermal: 0,
        memory_types: [0; 1 + MTRR_FIXED.len() + MOST_VARIABLE],
        fpu: fpu::Area::new(),
    };

    /// Keeps what the calling CPU has.
    fn fill(&mut self) {
        self.space = vmx_host::read_cr3();
        self.msrs = MSRS.map(|msr| read_msr(msr).unwrap_or(0));
        self.thermal = apic::thermal();
        for (msr, value) in memory_type_registers().zip(&mut self.memory_types) {
            *value = read_msr(msr).unwrap_or(0);
        }
        self.fpu.save();
    }

    /// Gives it back.
    fn restore(&self) {
        self.restore_memory_types();
        for (msr, value) in MSRS.into_iter().zip(self.msrs) {
            let _ = write_msr(msr, value);
        }
        apic::set_thermal(self.thermal);
        self.fpu.restore();
        // SAFETY: the space that was loaded before; all translations are forgotten.
        unsafe { asm!("mov cr3, {}", in(reg) self.space, options(nostack, preserves_flags)) };
    }

    /// Firmware may have set them, or not. Caches are off while they change (Intel SDM vol. 3, 11.11.8).
    fn restore_memory_types(&self) {
        let changed =
            |(msr, value): (u32, &u64)| read_msr(msr).is_ok_and(|present| present != *value);
        if !memory_type_registers().zip(&self.memory_types).any(changed) {
            return;
        }
        let cr0 = Cr0::read();
        // SAFETY: no-fill mode, caches empty: the same code and data are seen, more slowly.
        unsafe { Cr0::write(cr0 | Cr0Flags::CACHE_DISABLE) };
        flush_caches();
        let _ = write_msr(MTRR_DEFAULT, 0);
        for (msr, value) in memory_type_registers().zip(&self.memory_types) {
            let _ = write_msr(msr, *value);
        }
        flush_caches();
        super::space::flush_everything();
        // SAFETY: as it was.
        unsafe { Cr0::write(cr0) };
    }
}
