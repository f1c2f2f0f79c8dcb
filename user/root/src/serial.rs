//! The machine's first serial line (16550, National Semiconductor PC16550D data sheet).
//!
//! Keys arrive by interrupt 4 where an I/O APIC routes it, and by looking every few milliseconds
//! where it does not.
use crate::pages::kernel_word;
use abi::args::IrqCtrl;
use abi::hip::Ioapic;
use core::sync::atomic::{AtomicU64, Ordering};
use rt::Boot;
use rt::instructions::{inb, outb};
use rt::sync::Semaphore;

const BASE: u16 = 0x3f8;
const DATA_READY: u8 = 1;
const TRANSMITTER_EMPTY: u8 = 1 << 5;
/// Bytes the transmitter takes when it is empty.
const FIFO: usize = 16;
/// Status reads before bytes are given up.
const PATIENCE: u32 = 100_000;
/// The line's ISA interrupt, which is also its global number unless the firmware says otherwise.
const IRQ: u32 = 4;
/// User vector we ask for.
const VECTOR: u8 = 4;

/// The serial line.
pub struct Serial {
    /// The kernel sets bit 0 when the interrupt came; it raises the semaphore only if it was 0.
    pending: Option<&'static AtomicU64>,
    /// How often it was seen to have come.
    seen: u64,
}

impl Serial {
    /// Takes the interrupt, if there is an I/O APIC for it, and lets it raise `wake`.
    pub fn new(boot: &Boot, wake: &Semaphore) -> Self {
        let pending = interrupt(boot, wake);
        if pending.is_some() {
            outb(BASE + 1, DATA_READY);
        }
        Self { pending, seen: 0 }
    }

    /// After a suspension: the line's interrupts are off, and its pin is masked.
    pub fn resume(&self, boot: &Boot) {
        if self.pending.is_some() && route(boot).is_some() {
            outb(BASE + 1, DATA_READY);
        }
    }

    /// Whether keys announce themselves.
    pub fn interrupts(&self) -> bool {
        self.pending.is_some()
    }

    /// Says that the interrupt was seen; look for keys after this, not before.
    pub fn acknowledge(&mut self) {
        if let Some(pending) = self.pending {
            self.seen += u64::from(pending.swap(0, Ordering::SeqCst) != 0);
        }
    }

    /// Its vector, and how often it was seen; several at once count as one.
    pub fn interrupt(&self) -> Option<(u8, u64)> {
        self.pending.map(|_| (VECTOR, self.seen))
    }

    /// The next key.
    pub fn key(&self) -> Option<u8> {
        (inb(BASE + 5) & DATA_READY != 0).then(|| inb(BASE))
    }

    /// Sends bytes as they are.
    pub fn send(&self, bytes: &[u8]) {
        for chunk in bytes.chunks(FIFO) {
            for _ in 0..PATIENCE {
                if inb(BASE + 5) & TRANSMITTER_EMPTY != 0 {
                    break;
                }
            }
            for byte in chunk {
                outb(BASE, *byte);
            }
        }
    }
}

fn interrupt(boot: &Boot, wake: &Semaphore) -> Option<&'static AtomicU64> {
    ioapic(boot)?;
    let (kp, page) = rt::vcpu::kernel_page().ok()?;
    let configure =
        IrqCtrl::ConfigureVector { vector: VECTOR, cpu: boot.cpu, sm: wake.selector(), kp, bit: 0 };
    rt::calls::irq_ctrl(configure).ok()?;
    route(boot)?;
    Some(kernel_word(page))
}

/// The I/O APIC that has the line's interrupt.
fn ioapic(boot: &Boot) -> Option<Ioapic> {
    boot.hip.ioapics().find(|ioapic| {
        let last = (ioapic.version >> 16) & 0xff;
        (ioapic.gsi_base..=ioapic.gsi_base.saturating_add(last)).contains(&IRQ)
    })
}

/// Sends the line's interrupt to our vector, and lets it through.
fn route(boot: &Boot) -> Option<()> {
    let ioapic = ioapic(boot)?;
    let assign = IrqCtrl::AssignIoapicPin {
        vector: VECTOR,
        cpu: boot.cpu,
        level: false,
        active_low: false,
        ioapic: ((ioapic.id >> 24) & 0xf) as u8,
        pin: (IRQ - ioapic.gsi_base) as u8,
    };
    rt::calls::irq_ctrl(assign).ok().map(drop)
}
