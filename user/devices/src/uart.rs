//! A 16550A serial port (National Semiconductor PC16550D data sheet, June 1995).
//!
//! Modelled: all registers, the divisor latch, both FIFOs with their trigger levels, the interrupt
//! priorities of table IV, loopback with the modem wires, overrun. The transmitter is infinitely
//! fast: a byte written is at once in the output queue and the holding register is empty again,
//! unless the queue is full, in which case the guest sees a busy transmitter until the monitor
//! has drained it. The receive time-out of section 8.4.1 comes at once instead of after four
//! character times. Baud rate, parity and framing have no effect.
//!
//! Not modelled: DMA modes, break on the wire in either direction.
//!
//! As on every PC the interrupt output passes a gate opened by OUT2 (IBM PC/AT technical
//! reference, asynchronous adapter); loopback mode closes it.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

/// Depth of the receive FIFO, bytes.
pub const FIFO: usize = 16;
/// Bytes the output queue holds before the transmitter looks busy to the guest.
pub const OUTPUT: usize = 4096;

/// Interrupt enable: received data.
const IER_RX: u8 = 1 << 0;
/// Interrupt enable: transmitter holding register empty.
const IER_THRE: u8 = 1 << 1;
/// Interrupt enable: receiver line status.
const IER_LINE: u8 = 1 << 2;
/// Interrupt enable: modem status.
const IER_MODEM: u8 = 1 << 3;

/// Line control: the divisor latch is at offsets 0 and 1.
const LCR_DLAB: u8 = 1 << 7;

/// Modem control: data terminal ready, request to send, OUT1, OUT2, loopback.
const MCR_DTR: u8 = 1 << 0;
const MCR_RTS: u8 = 1 << 1;
const MCR_OUT1: u8 = 1 << 2;
const MCR_OUT2: u8 = 1 << 3;
const MCR_LOOP: u8 = 1 << 4;

/// Line status: data ready, overrun, holding register empty, transmitter empty.
const LSR_DATA: u8 = 1 << 0;
const LSR_OVERRUN: u8 = 1 << 1;
const LSR_THRE: u8 = 1 << 5;
const LSR_TEMT: u8 = 1 << 6;

/// Modem status wires: clear to send, data set ready, ring, carrier detect.
const MSR_CTS: u8 = 1 << 4;
const MSR_DSR: u8 = 1 << 5;
const MSR_RI: u8 = 1 << 6;
const MSR_DCD: u8 = 1 << 7;

/// FIFO control: both FIFOs on, clear the receive FIFO.
const FCR_ENABLE: u8 = 1 << 0;
const FCR_CLEAR_RX: u8 = 1 << 1;

/// One serial port; eight byte-wide registers at offsets 0 to 7.
#[derive(Debug, Clone)]
pub struct Uart {
    interrupt_enable: u8,
    fifo_control: u8,
    line_control: u8,
    modem_control: u8,
    modem_deltas: u8,
    scratch: u8,
    divisor: [u8; 2],
    overrun: bool,
    /// The THRE interrupt is latched: set when the register empties, cleared by reading IIR.
    thre_latched: bool,
    receive: VecDeque<u8>,
    output: VecDeque<u8>,
    /// Bytes the guest wrote while the transmitter was busy; a real chip loses them too.
    lost: u64,
}

impl Default for Uart {
    fn default() -> Self {
        Self::new()
    }
}

impl Uart {
    /// A port after reset (data sheet, table I): FIFOs off, interrupts off, 9600 baud.
    #[must_use]
    pub fn new() -> Self {
        Self {
            interrupt_enable: 0,
            fifo_control: 0,
            line_control: 0,
            modem_control: 0,
            modem_deltas: 0,
            scratch: 0,
            divisor: [12, 0],
            overrun: false,
            thre_latched: false,
            receive: VecDeque::with_capacity(FIFO),
            output: VecDeque::new(),
            lost: 0,
        }
    }

    /// The guest reads the register at `offset` (0 to 7, higher bits ignored).
    pub fn read(&mut self, offset: u16) -> u8 {
        let latch = self.line_control & LCR_DLAB != 0;
        match offset & 7 {
            0 if latch => self.divisor[0],
            1 if latch => self.divisor[1],
            0 => self.receive.pop_front().unwrap_or(0),
            1 => self.interrupt_enable,
            2 => self.read_identification(),
            3 => self.line_control,
            4 => self.modem_control,
            5 => {
                let status = self.line_status();
                self.overrun = false;
                status
            }
            6 => {
                let status = self.modem_wires() | self.modem_deltas;
                self.modem_deltas = 0;
                status
            }
            _ => self.scratch,
        }
    }

    /// The guest writes the register at `offset` (0 to 7, higher bits ignored).
    pub fn write(&mut self, offset: u16, value: u8) {
        let latch = self.line_control & LCR_DLAB != 0;
        match offset & 7 {
            0 if latch => self.divisor[0] = value,
            1 if latch => self.divisor[1] = value,
            0 => self.transmit(value),
            1 => {
                let enabled = value & !self.interrupt_enable;
                self.interrupt_enable = value & 0x0f;
                // Enabling the interrupt with the register already empty raises it: Linux's
                // start-up test for broken chips looks for exactly this.
                if enabled & IER_THRE != 0 && self.transmitter_ready() {
                    self.thre_latched = true;
                }
            }
            2 => self.write_fifo_control(value),
            3 => self.line_control = value,
            4 => {
                let before = self.modem_wires();
                self.modem_control = value & 0x1f;
                self.note_modem_change(before);
            }
            // The data sheet calls writing LSR "factory testing only"; MSR bits may be written
            // in loopback to provoke interrupts, which nobody does.
            5 | 6 => {}
            _ => self.scratch = value,
        }
    }

    /// A byte arrives on the wire. `false`: there is no room (or the wire is disconnected by
    /// loopback mode); nothing changed, offer it again later.
    #[must_use]
    pub fn receive(&mut self, byte: u8) -> bool {
        if self.modem_control & MCR_LOOP != 0 || self.receive.len() >= self.depth() {
            return false;
        }
        self.receive.push_back(byte);
        true
    }

    /// Received bytes the guest has not read yet.
    #[must_use]
    pub fn unread(&self) -> usize {
        self.receive.len()
    }

    /// Whether bytes wait for [`Uart::take_output`].
    #[must_use]
    #[inline]
    pub fn has_output(&self) -> bool {
        !self.output.is_empty()
    }

    /// Takes all bytes the guest has sent since the last call.
    pub fn take_output(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.move_output(&mut bytes);
        bytes
    }

    /// The same, behind what `into` holds.
    pub fn move_output(&mut self, into: &mut Vec<u8>) {
        let was_full = !self.transmitter_ready();
        into.extend(self.output.drain(..));
        if was_full {
            self.thre_latched = true;
        }
    }

    /// Bytes the guest sent into a busy transmitter, and so lost.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// The interrupt output: IRQ 4 of the first port.
    #[must_use]
    pub fn irq(&self) -> bool {
        let gate = self.modem_control & (MCR_OUT2 | MCR_LOOP) == MCR_OUT2;
        gate && self.cause() != Cause::None
    }

    fn fifos(&self) -> bool {
        self.fifo_control & FCR_ENABLE != 0
    }

    fn depth(&self) -> usize {
        if self.fifos() { FIFO } else { 1 }
    }

    fn trigger(&self) -> usize {
        match (self.fifos(), self.fifo_control >> 6) {
            (false, _) | (true, 0) => 1,
            (true, 1) => 4,
            (true, 2) => 8,
            _ => 14,
        }
    }

    fn transmitter_ready(&self) -> bool {
        self.output.len() < OUTPUT
    }

    fn line_status(&self) -> u8 {
        let mut status = 0;
        if !self.receive.is_empty() {
            status |= LSR_DATA;
        }
        if self.overrun {
            status |= LSR_OVERRUN;
        }
        if self.transmitter_ready() {
            status |= LSR_THRE | LSR_TEMT;
        }
        status
    }

    /// The upper half of MSR. A cable is always plugged in, except in loopback, where the
    /// outputs are wired to the inputs (data sheet 8.6.6).
    fn modem_wires(&self) -> u8 {
        let control = self.modem_control;
        if control & MCR_LOOP == 0 {
            return MSR_CTS | MSR_DSR | MSR_DCD;
        }
        let wire = |output: u8, input: u8| if control & output != 0 { input } else { 0 };
        wire(MCR_RTS, MSR_CTS)
            | wire(MCR_DTR, MSR_DSR)
            | wire(MCR_OUT1, MSR_RI)
            | wire(MCR_OUT2, MSR_DCD)
    }

    fn note_modem_change(&mut self, before: u8) {
        let after = self.modem_wires();
        let changed = before ^ after;
        // The ring delta is a trailing-edge detector: it sees only the wire going off.
        let rings = before & !after & MSR_RI;
        self.modem_deltas |= (changed & !MSR_RI | rings) >> 4;
    }

    fn transmit(&mut self, byte: u8) {
        self.thre_latched = false;
        if self.modem_control & MCR_LOOP != 0 {
            if self.receive.len() < self.depth() {
                self.receive.push_back(byte);
            } else {
                self.overrun = true;
                if !self.fifos() {
                    self.receive.clear();
                    self.receive.push_back(byte);
                }
            }
        } else if self.transmitter_ready() {
            self.output.push_back(byte);
        } else {
            self.lost = self.lost.saturating_add(1);
        }
        self.thre_latched = self.transmitter_ready();
    }

    fn write_fifo_control(&mut self, value: u8) {
        if (value ^ self.fifo_control) & FCR_ENABLE != 0 || value & FCR_CLEAR_RX != 0 {
            self.receive.clear();
        }
        // Without the enable bit the other bits are not programmed (data sheet 8.4).
        self.fifo_control = if value & FCR_ENABLE != 0 { value & 0xc9 } else { 0 };
    }

    fn read_identification(&mut self) -> u8 {
        let cause = self.cause();
        if cause == Cause::Transmitter {
            self.thre_latched = false;
        }
        cause as u8 | if self.fifos() { 0xc0 } else { 0 }
    }

    /// The most urgent enabled cause (data sheet, table IV).
    fn cause(&self) -> Cause {
        let enabled = |bit: u8| self.interrupt_enable & bit != 0;
        if enabled(IER_LINE) && self.overrun {
            Cause::Line
        } else if enabled(IER_RX) && self.receive.len() >= self.trigger() {
            Cause::Data
        } else if enabled(IER_RX) && !self.receive.is_empty() {
            Cause::TimeOut
        } else if enabled(IER_THRE) && self.thre_latched {
            Cause::Transmitter
        } else if enabled(IER_MODEM) && self.modem_deltas != 0 {
            Cause::Modem
        } else {
            Cause::None
        }
    }
}

/// What IIR shows in its low four bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cause {
    Modem = 0x0,
    None = 0x1,
    Transmitter = 0x2,
    Data = 0x4,
    Line = 0x6,
    TimeOut = 0xc,
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUT2: u8 = MCR_OUT2;

    #[test]
    fn linux_autoconfig_finds_a_16550a() {
        let mut uart = Uart::new();
        uart.write(1, 0);
        assert_eq!(uart.read(1), 0);
        uart.write(1, 0x0f);
        assert_eq!(uart.read(1), 0x0f);
        uart.write(1, 0);
        uart.write(4, MCR_LOOP | 0x0a);
        assert_eq!(uart.read(6) & 0xf0, 0x90);
        uart.write(4, 0);
        uart.write(3, 0xbf);
        uart.write(2, 0);
        uart.write(3, 0);
        uart.write(2, 1);
        assert_eq!(uart.read(2) >> 6, 3);
        // Not a 16750 with its 64-byte FIFO, not an Xscale port with IER bit 6.
        uart.write(2, 0x21);
        assert_eq!(uart.read(2) >> 5, 6);
        uart.write(1, 0x40);
        assert_eq!(uart.read(1), 0);
    }

    #[test]
    fn enabling_thre_raises_it_each_time() {
        let mut uart = Uart::new();
        uart.write(4, OUT2);
        for _ in 0..2 {
            uart.write(1, IER_THRE);
            assert!(uart.irq());
            assert_eq!(uart.read(2) & 0x0f, 2);
            assert!(!uart.irq());
            assert_eq!(uart.read(2) & 0x0f, 1);
            uart.write(1, 0);
        }
        uart.write(1, IER_THRE);
        uart.read(2);
        uart.write(0, b'x');
        assert!(uart.irq(), "the register emptied again");
        assert_eq!(uart.take_output(), b"x");
    }

    #[test]
    fn received_bytes_interrupt_and_drain() {
        let mut uart = Uart::new();
        uart.write(4, OUT2);
        uart.write(2, 0x81);
        uart.write(1, IER_RX);
        for byte in 0..FIFO as u8 {
            assert!(uart.receive(byte));
            let expected = if byte < 7 { 0xcc } else { 0xc4 };
            assert_eq!(uart.read(2), expected);
        }
        assert!(!uart.receive(16));
        for byte in 0..FIFO as u8 {
            assert_eq!(uart.read(5) & LSR_DATA, LSR_DATA);
            assert_eq!(uart.read(0), byte);
        }
        assert!(!uart.irq());
        assert_eq!(uart.read(5), LSR_THRE | LSR_TEMT);
    }

    #[test]
    fn the_gate_is_out2_and_loopback_closes_it() {
        let mut uart = Uart::new();
        uart.write(1, IER_THRE);
        assert!(!uart.irq());
        uart.write(4, OUT2);
        assert!(uart.irq());
        uart.write(4, OUT2 | MCR_LOOP);
        assert!(!uart.irq());
        uart.write(0, 0x5a);
        assert_eq!(uart.read(0), 0x5a);
        assert!(!uart.has_output());
    }

    #[test]
    fn a_full_queue_looks_busy_and_recovers() {
        let mut uart = Uart::new();
        uart.write(4, OUT2);
        uart.write(1, IER_THRE);
        for _ in 0..OUTPUT {
            assert_eq!(uart.read(5) & LSR_THRE, LSR_THRE);
            uart.write(0, b'.');
        }
        assert_eq!(uart.read(5) & (LSR_THRE | LSR_TEMT), 0);
        uart.write(0, b'!');
        assert_eq!(uart.lost(), 1);
        assert!(!uart.irq());
        assert_eq!(uart.take_output().len(), OUTPUT);
        assert!(uart.irq());
    }

    #[test]
    fn divisor_latch_and_scratch() {
        let mut uart = Uart::new();
        uart.write(3, 0x83);
        uart.write(0, 1);
        uart.write(1, 2);
        assert_eq!((uart.read(0), uart.read(1)), (1, 2));
        uart.write(3, 3);
        assert_eq!(uart.read(1), 0);
        uart.write(7, 0xa5);
        assert_eq!(uart.read(7), 0xa5);
    }

    #[test]
    fn overrun_in_loopback_is_reported_once() {
        let mut uart = Uart::new();
        uart.write(4, MCR_LOOP);
        uart.write(0, 1);
        uart.write(0, 2);
        assert_eq!(uart.read(5) & LSR_OVERRUN, LSR_OVERRUN);
        assert_eq!(uart.read(5) & LSR_OVERRUN, 0);
        assert_eq!(uart.read(0), 2);
    }
}
