//! The registers of a VGA in text mode 3: 80 by 25 characters (IBM PS/2 Hardware Interface Technical Reference,
//! "Video Subsystem"; J. D. Neal, "Hardware Level VGA and SVGA Video Programming Information").
//!
//! Modelled: all registers of a colour VGA keep what is written and begin as a BIOS leaves them in mode 3; the cursor
//! and the start address mean what they say; the two status bits of input status 1 change with every look, so that a
//! driver that waits for them goes on. The text itself is ordinary memory of the guest at 0xb8000 and not known here.
//!
//! Not modelled: graphics, other modes, fonts, colours, the monochrome ports, interrupts, a video BIOS.

/// Characters of a line.
pub const COLUMNS: u16 = 80;
/// Lines.
pub const LINES: u16 = 25;

/// The ports: attributes, output, sequencer, palette, graphics; cursor and start address; status.
const ATTRIBUTE: u16 = 0x3c0;
const ATTRIBUTE_DATA: u16 = 0x3c1;
const OUTPUT: u16 = 0x3c2;
const SEQUENCER: u16 = 0x3c4;
const MASK: u16 = 0x3c6;
const PALETTE_READ: u16 = 0x3c7;
const PALETTE_WRITE: u16 = 0x3c8;
const PALETTE_DATA: u16 = 0x3c9;
const FEATURE_READ: u16 = 0x3ca;
const OUTPUT_READ: u16 = 0x3cc;
const GRAPHICS: u16 = 0x3ce;
const CRTC: u16 = 0x3d4;
const STATUS: u16 = 0x3da;

/// Of the CRTC: cursor's first line (bit 5: off), start address, cursor's place, bit 7 of which protects 0 to 7.
const CURSOR_SHAPE: u8 = 0x0a;
const CURSOR_OFF: u8 = 0x20;
const START: u8 = 0x0c;
const CURSOR: u8 = 0x0e;
const PROTECT: u8 = 0x11;
/// Input status 1: no display now, vertical retrace.
const RETRACE: u8 = 0x09;

/// Mode 3 as a BIOS sets it.
const CRTC_MODE_3: [u8; 25] = [
    0x5f, 0x4f, 0x50, 0x82, 0x55, 0x81, 0xbf, 0x1f, 0, 0x4f, 0x0d, 0x0e, 0, 0, 0, 0, 0x9c, 0x8e,
    0x8f, 0x28, 0x1f, 0x96, 0xb9, 0xa3, 0xff,
];
const ATTRIBUTES_MODE_3: [u8; 21] = [
    0, 1, 2, 3, 4, 5, 0x14, 7, 0x38, 0x39, 0x3a, 0x3b, 0x3c, 0x3d, 0x3e, 0x3f, 0x0c, 0, 0x0f, 8, 0,
];

/// What decides which part of the text memory is seen. Places are counted in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Text {
    /// Where the screen's first character lies.
    pub start: u16,
    /// Where the cursor stands; nothing if it is off.
    pub cursor: Option<u16>,
}

/// Registers behind an index.
#[derive(Debug, Clone)]
struct Indexed<const N: usize> {
    index: u8,
    values: [u8; N],
}

impl<const N: usize> Indexed<N> {
    const fn new(values: [u8; N]) -> Self {
        Self { index: 0, values }
    }

    fn read(&self) -> u8 {
        self.get(self.index)
    }

    fn get(&self, index: u8) -> u8 {
        self.values.get(usize::from(index)).copied().unwrap_or(0)
    }

    fn write(&mut self, value: u8) {
        if let Some(register) = self.values.get_mut(usize::from(self.index)) {
            *register = value;
        }
    }
}

/// The registers.
#[derive(Debug, Clone)]
pub struct Vga {
    crtc: Indexed<25>,
    sequencer: Indexed<5>,
    graphics: Indexed<9>,
    attributes: Indexed<21>,
    /// The next byte at the attributes' port is data.
    data_next: bool,
    output: u8,
    mask: u8,
    palette: [u8; 768],
    /// The next byte of the palette to write, and to read, below 768.
    write_at: u16,
    read_at: u16,
    /// The palette was last told where to read, not where to write.
    reads: bool,
    retrace: u8,
}

impl Default for Vga {
    fn default() -> Self {
        Self {
            crtc: Indexed::new(CRTC_MODE_3),
            sequencer: Indexed::new([3, 0, 3, 0, 2]),
            graphics: Indexed::new([0, 0, 0, 0, 0, 0x10, 0x0e, 0, 0xff]),
            // Bit 5: the picture is on.
            attributes: Indexed { index: 0x20, values: ATTRIBUTES_MODE_3 },
            data_next: false,
            output: 0x67,
            mask: 0xff,
            palette: [0; 768],
            write_at: 0,
            read_at: 0,
            reads: false,
            retrace: 0,
        }
    }
}

impl Vga {
    /// What of the text memory is seen.
    #[must_use]
    pub fn text(&self) -> Text {
        let pair = |index: u8| u16::from_be_bytes([self.crtc.get(index), self.crtc.get(index + 1)]);
        let off = self.crtc.get(CURSOR_SHAPE) & CURSOR_OFF != 0;
        Text { start: pair(START), cursor: (!off).then(|| pair(CURSOR)) }
    }

    /// The guest reads a byte; nothing if the port is not the VGA's.
    pub fn read(&mut self, port: u16) -> Option<u8> {
        Some(match port {
            ATTRIBUTE => self.attributes.index,
            ATTRIBUTE_DATA => self.attributes.get(self.attributes.index & 0x1f),
            // Input status 0, feature control: nothing to tell.
            OUTPUT | FEATURE_READ => 0,
            SEQUENCER => self.sequencer.index,
            0x3c5 => self.sequencer.read(),
            MASK => self.mask,
            PALETTE_READ => {
                if self.reads {
                    3
                } else {
                    0
                }
            }
            PALETTE_WRITE => (self.write_at / 3) as u8,
            PALETTE_DATA => {
                let at = self.read_at;
                self.read_at = (at + 1) % 768;
                self.palette.get(usize::from(at)).copied().unwrap_or(0)
            }
            OUTPUT_READ => self.output,
            GRAPHICS => self.graphics.index,
            0x3cf => self.graphics.read(),
            CRTC => self.crtc.index,
            0x3d5 => self.crtc.read(),
            STATUS => {
                self.data_next = false;
                self.retrace ^= RETRACE;
                self.retrace
            }
            _ => return None,
        })
    }

    /// The guest writes a byte; false if the port is not the VGA's.
    pub fn write(&mut self, port: u16, value: u8) -> bool {
        match port {
            ATTRIBUTE => {
                if self.data_next {
                    let register = usize::from(self.attributes.index & 0x1f);
                    self.attributes
                        .values
                        .iter_mut()
                        .skip(register)
                        .take(1)
                        .for_each(|it| *it = value);
                } else {
                    self.attributes.index = value & 0x3f;
                }
                self.data_next = !self.data_next;
            }
            OUTPUT => self.output = value,
            SEQUENCER => self.sequencer.index = value,
            0x3c5 => self.sequencer.write(value),
            MASK => self.mask = value,
            PALETTE_READ => (self.read_at, self.reads) = (u16::from(value) * 3, true),
            PALETTE_WRITE => (self.write_at, self.reads) = (u16::from(value) * 3, false),
            PALETTE_DATA => {
                if let Some(colour) = self.palette.get_mut(usize::from(self.write_at)) {
                    *colour = value & 0x3f;
                }
                self.write_at = (self.write_at + 1) % 768;
            }
            GRAPHICS => self.graphics.index = value,
            0x3cf => self.graphics.write(value),
            CRTC => self.crtc.index = value,
            0x3d5 => {
                if self.crtc.index > 7 || self.crtc.get(PROTECT) & 0x80 == 0 {
                    self.crtc.write(value);
                }
            }
            // Read-only there, or without effect: feature control.
            ATTRIBUTE_DATA | FEATURE_READ | OUTPUT_READ | STATUS => {}
            _ => return false,
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cursor_moves_as_kernels_move_it() {
        let mut vga = Vga::default();
        assert_eq!(vga.text(), Text { start: 0, cursor: Some(0) });
        for (index, value) in [(0x0f, 0x34), (0x0e, 0x02), (0x0c, 0), (0x0d, 80)] {
            assert!(vga.write(0x3d4, index) && vga.write(0x3d5, value));
            assert_eq!((vga.read(0x3d4), vga.read(0x3d5)), (Some(index), Some(value)));
        }
        assert_eq!(vga.text(), Text { start: 80, cursor: Some(0x234) });
        vga.write(0x3d4, 0x0a);
        vga.write(0x3d5, 0x20);
        assert_eq!(vga.text().cursor, None);
    }

    #[test]
    fn the_first_eight_registers_are_protected() {
        let mut vga = Vga::default();
        let put = |vga: &mut Vga, index, value| {
            vga.write(0x3d4, index);
            vga.write(0x3d5, value);
            vga.write(0x3d4, index);
            vga.read(0x3d5)
        };
        assert_eq!(put(&mut vga, 1, 7), Some(0x4f));
        assert_eq!(put(&mut vga, 0x11, 0), Some(0));
        assert_eq!(put(&mut vga, 1, 7), Some(7));
        assert_eq!(put(&mut vga, 25, 7), Some(0));
    }

    #[test]
    fn attributes_come_in_pairs_and_the_status_begins_one() {
        let mut vga = Vga::default();
        vga.read(0x3da);
        for value in [0x30, 0x08, 0x31, 0x05] {
            assert!(vga.write(0x3c0, value));
        }
        vga.write(0x3c0, 0x30);
        assert_eq!(vga.read(0x3c1), Some(8));
        vga.read(0x3da);
        vga.write(0x3c0, 0x31);
        assert_eq!((vga.read(0x3c0), vga.read(0x3c1)), (Some(0x31), Some(5)));
        // Whoever waits for the retrace, or for its end, sees it come and go.
        let seen = [0, 1, 2, 3].map(|_| vga.read(0x3da).unwrap());
        assert_eq!(seen, [9, 0, 9, 0].map(|bits| bits ^ seen[0] ^ 9));
    }

    #[test]
    fn the_palette_is_kept() {
        let mut vga = Vga::default();
        vga.write(0x3c8, 255);
        for value in [1, 2, 0xff, 4] {
            vga.write(0x3c9, value);
        }
        vga.write(0x3c7, 255);
        assert_eq!([0; 4].map(|_| vga.read(0x3c9).unwrap()), [1, 2, 0x3f, 4]);
    }

    #[test]
    fn random_words_are_survived() {
        let (mut vga, mut x) = (Vga::default(), 5_u64);
        for _ in 0..200_000 {
            x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let (port, value) =
                (0x3b0 + (x >> 60) as u16 + (x >> 40 & 0x2f) as u16, (x >> 50) as u8);
            let here = vga.read(port).is_some();
            assert_eq!(vga.write(port, value), here, "{port:#x}");
            assert!(vga.write_at < 768 && vga.read_at < 768);
        }
    }
}
