//! What system calls may ask of the machine: registers of the processor, interrupt controllers.
//!
//! Thin words over `arch`, which the room of system calls may not name. Who may ask is decided there.

use abi::Status;
use logic::addr::Frame;
use sync::{Counted, SharedPage};

use crate::{Cpu, IrqTable, Kernel, Pd, VectorUse};

/// Reads a model-specific register of this CPU.
pub fn read_msr(msr: u32) -> Option<u64> {
    arch::read_msr(msr).ok()
}

/// Writes a model-specific register of this CPU; whether the processor took it.
pub fn write_msr(msr: u32, value: u64) -> bool {
    arch::write_msr(msr, value).is_ok()
}

/// Whether the machine has a physical address of so many frames' end.
pub fn has_physical(end_frame: u64) -> bool {
    end_frame <= 1 << (arch::physical_bits().clamp(12, 63) - 12)
}

/// Whether this machine runs guests. A guest's FPU registers must fit into the kernel page that its monitor sees.
pub fn can_run_guests() -> bool {
    arch::guest_vendor() != arch::GuestVendor::None && arch::fpu_order() == 0
}

/// The longest time that interrupts were off for a label of `abi::log`, where that is measured.
pub fn longest_stretch(label: u64) -> Option<u64> {
    arch::stretch::longest(label)
}

/// The root entry under which a domain's own port bitmap hangs.
pub const PORT_ROOT_ENTRY: usize = (arch::PORT_BITMAP_ADDRESS >> 39 & 511) as usize;

impl Kernel {
    /// Makes the interrupt table of CPU `cpu`, at its start.
    #[inline(never)]
    pub fn make_irq_table(&'static self, cpu: usize) -> Result<(), logic::Oom> {
        let table = self.irq_tables.reserve()?.fill(IrqTable::new());
        if let Some(remote) = self.remotes.get(cpu) {
            *remote.irqs.lock() = Some(table);
        }
        Ok(())
    }
}

impl Cpu {
    /// The interrupt table of CPU `cpu`, made at its start.
    pub fn irq_table(&self, cpu: usize) -> Option<Counted<IrqTable>> {
        self.kernel.remotes.get(cpu)?.irq_table()
    }

    /// An interrupt for user space arrived: sets its bit, and counts its semaphore up if the bit was clear.
    pub fn deliver_interrupt(&mut self, vector: u8) {
        let number = usize::from(vector.wrapping_sub(arch::vector::USER_FIRST));
        let Some(table) = self.irq_table(self.id) else { return };
        // A level-triggered pin would fire again at once; its owner unmasks it, or nobody does.
        if let Some((ioapic, pin)) = table.level_pin(number)
            && arch::ioapic_read(ioapic.into(), pin.into()).is_some_and(|low| low as u8 == vector)
        {
            arch::ioapic_mask(ioapic.into(), pin.into(), true);
        }
        let Some(VectorUse { sm, kp, bit }) = table.get(number) else {
            table.count_unowned();
            self.tell_unowned(vector);
            return;
        };
        let mask = 1u64 << (bit & 63);
        let word = kp.page().atomic(usize::from(bit >> 6));
        let before = word.fetch_or(mask, core::sync::atomic::Ordering::SeqCst);
        if before & mask == 0
            && let Some(sc) = sm.up()
        {
            self.wake(sc, Status::Success);
        }
    }

    /// Programs and unmasks an I/O APIC pin; `BadPar` if there is no such pin.
    #[allow(clippy::too_many_arguments, reason = "the arguments of irq_ctrl")]
    pub fn assign_pin(
        &self,
        vector: u8,
        cpu: usize,
        level: bool,
        active_low: bool,
        id: u8,
        pin: u8,
    ) -> Result<(), Status> {
        let ioapic = find_ioapic(id, pin).ok_or(Status::BadPar)?;
        if let Some(table) = self.irq_table(cpu) {
            table.set_level_pin(usize::from(vector), level.then_some((ioapic as u8, pin)));
        }
        let low = u32::from(vector + arch::vector::USER_FIRST)
            | u32::from(active_low) << 13
            | u32::from(level) << 15;
        arch::ioapic_write(ioapic, pin.into(), low, arch::msi_target(cpu) << 24);
        Ok(())
    }

    /// Masks or unmasks an I/O APIC pin.
    pub fn mask_pin(&self, mask: bool, id: u8, pin: u8) -> Result<(), Status> {
        let ioapic = find_ioapic(id, pin).ok_or(Status::BadPar)?;
        arch::ioapic_mask(ioapic, pin.into(), mask);
        Ok(())
    }

    /// MSI address and data that bring `vector` to a CPU.
    pub fn msi(&self, vector: u8, cpu: usize) -> (u64, u64) {
        let address = 0xfee0_0000 | u64::from(arch::msi_target(cpu)) << 12;
        (address, u64::from(vector) + u64::from(arch::vector::USER_FIRST))
    }

    /// Sets or masks this CPU's thermal interrupt.
    pub fn thermal(&self, vector: u8, mask: bool) {
        arch::lvt_thermal(vector.wrapping_add(arch::vector::USER_FIRST), mask);
    }

    /// Lets the domain's own port bitmap take effect wherever it is loaded.
    pub fn hang_ports(&mut self, pd: &Pd, entry: u64) {
        pd.memory.set_root_entry(PORT_ROOT_ENTRY, entry);
        let progress = crate::Progress {
            done: true,
            flush: logic::page_table::Flush::Needed,
            released: 0,
            oom: false,
        };
        self.settle(pd.identity(), &progress);
    }
}

fn find_ioapic(id: u8, pin: u8) -> Option<usize> {
    let found = (0..arch::ioapic_count()).find(|&i| arch::ioapic_id(i) == id)?;
    (u32::from(pin) < arch::ioapic_pins(found)).then_some(found)
}

/// Runs `see` on any page of physical memory.
pub fn with_physical(frame: Frame, see: &mut dyn FnMut(&SharedPage)) {
    arch::with_physical(frame, see);
}

impl Cpu {
    /// TSC ticks as microseconds.
    pub fn microseconds(&self, ticks: u64) -> u64 {
        let khz = arch::tsc_khz().max(1);
        (u128::from(ticks) * 1000 / u128::from(khz)) as u64
    }
}
