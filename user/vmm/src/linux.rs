//! Linux's 64-bit boot protocol: judges a bzImage, lays it out in guest memory.
//!
//! Source: Linux `Documentation/arch/x86/boot.rst`, protocol 2.12 and newer. Nothing is written
//! before everything has been checked; every refusal is one sentence with its numbers.
use crate::e820::{self, Kind};
use crate::layout;
use crate::memory::GuestMemory;
use core::fmt;
use core::sync::atomic::AtomicU64;

/// Offset of the setup header, in the file and in the zero page.
const HEADER: usize = 0x1f1;
/// Oldest protocol with a 64-bit entry point flag.
const OLDEST: u16 = 0x20c;

/// Why an image cannot be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The file ends inside its setup header.
    HeaderCut {
        /// Bytes that there are.
        length: usize,
    },
    /// No `HdrS` or no boot flag: not a bzImage.
    NotBzImage,
    /// The boot protocol is older than 2.12.
    TooOld {
        /// Protocol as in the header, major in the high byte.
        version: u16,
    },
    /// The kernel has no 64-bit entry point.
    No64BitEntry,
    /// The file is shorter than its header says.
    ImageCut {
        /// Bytes that the header promises.
        wanted: u64,
        /// Bytes that there are.
        length: u64,
    },
    /// The kernel needs more memory than the guest has.
    KernelTooLarge {
        /// Bytes of guest memory needed, from address 0.
        wanted: u64,
        /// Bytes of guest memory.
        memory: u64,
    },
    /// The initrd does not fit between the kernel and the end of memory.
    InitrdTooLarge {
        /// Bytes of the initrd.
        size: u64,
        /// Bytes free for it.
        room: u64,
    },
    /// The command line is longer than the kernel takes.
    CommandLineTooLong {
        /// Characters given.
        length: usize,
        /// Characters the kernel takes.
        limit: usize,
    },
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Refusal::HeaderCut { length } => {
                write!(f, "kernel is no bzImage: {length} bytes end inside the setup header")
            }
            Refusal::NotBzImage => write!(f, "kernel is no bzImage: no HdrS signature"),
            Refusal::TooOld { version } => write!(
                f,
                "kernel speaks boot protocol {}.{:02}, needed is 2.12 or newer",
                version >> 8,
                version & 0xff
            ),
            Refusal::No64BitEntry => write!(f, "kernel has no 64-bit entry point"),
            Refusal::ImageCut { wanted, length } => write!(
                f,
                "kernel is truncated: its header promises {wanted} bytes, the file has {length}"
            ),
            Refusal::KernelTooLarge { wanted, memory } => {
                write!(f, "kernel needs {wanted} bytes of guest memory, the guest has {memory}")
            }
            Refusal::InitrdTooLarge { size, room } => {
                write!(f, "initrd has {size} bytes, guest memory has room for {room}")
            }
            Refusal::CommandLineTooLong { length, limit } => {
                write!(f, "command line has {length} characters, the kernel takes {limit}")
            }
        }
    }
}

/// A bzImage that passed all checks; numbers from its setup header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// File offset of the protected-mode code.
    pub payload: u64,
    /// Bytes of protected-mode code.
    pub payload_size: u64,
    /// Guest-physical address where the code goes.
    pub load: u64,
    /// Bytes the kernel needs from `load` before it can read its memory map.
    pub init_size: u64,
    /// Highest address an initrd byte may have.
    pub initrd_max: u64,
    /// Longest command line, without the NUL.
    pub command_line_max: usize,
    /// Bytes of the setup header that go into the zero page.
    header_size: usize,
}

impl Kernel {
    /// Judges `head`, the first 4096 bytes (or all) of a file of `length` bytes.
    pub fn parse(head: &[u8], length: u64) -> Result<Kernel, Refusal> {
        let cut = Refusal::HeaderCut { length: head.len() };
        let word = |at: usize| number(head, at, 2).ok_or(cut);
        let long = |at: usize| number(head, at, 4).ok_or(cut);
        if word(0x1fe)? != 0xaa55 || long(0x202)? != u64::from(u32::from_le_bytes(*b"HdrS")) {
            return Err(Refusal::NotBzImage);
        }
        let version = word(0x206)? as u16;
        if version < OLDEST {
            return Err(Refusal::TooOld { version });
        }
        if word(0x236)? & 1 == 0 {
            return Err(Refusal::No64BitEntry);
        }
        let sectors = match number(head, HEADER, 1).ok_or(cut)? {
            0 => 4,
            sectors => sectors,
        };
        let payload = (sectors + 1) * 512;
        // The header counts paragraphs of 16 bytes, of which the file may have only a part of the last.
        let promised = long(0x1f4)? * 16;
        if payload + promised >= length + 16 {
            return Err(Refusal::ImageCut { wanted: payload + promised, length });
        }
        let payload_size = promised.min(length - payload);
        let header_size = (0x202 + number(head, 0x201, 1).ok_or(cut)? as usize) - HEADER;
        if HEADER + header_size > head.len() {
            return Err(cut);
        }
        Ok(Kernel {
            payload,
            payload_size,
            load: number(head, 0x258, 8).ok_or(cut)?,
            init_size: long(0x260)?.max(payload_size),
            initrd_max: long(0x22c)?,
            command_line_max: long(0x238)? as usize,
            header_size,
        })
    }

    /// Decides where the initrd goes, or why nothing can start.
    pub fn place(
        &self,
        memory: u64,
        initrd_size: u64,
        command_line: &[u8],
    ) -> Result<Placement, Refusal> {
        let end = self.load.saturating_add(self.init_size);
        if end > memory || self.load < layout::KERNEL_LOWEST {
            return Err(Refusal::KernelTooLarge { wanted: end, memory });
        }
        let limit = self.command_line_max.min(layout::COMMAND_LINE_SIZE - 1);
        if command_line.len() > limit {
            return Err(Refusal::CommandLineTooLong { length: command_line.len(), limit });
        }
        let top = memory.min(self.initrd_max.saturating_add(1)) & !0xfff;
        let room = top.saturating_sub((end + 0xfff) & !0xfff);
        if initrd_size > room {
            return Err(Refusal::InitrdTooLarge { size: initrd_size, room });
        }
        Ok(Placement { initrd: (top - initrd_size) & !0xfff, initrd_size })
    }

    /// The instruction the first vCPU starts at: 0x200 into the code.
    pub fn entry(&self) -> u64 {
        self.load + 0x200
    }

    /// Fills the zero page: setup header, memory map, initrd, command line, ACPI root.
    pub fn zero_page(
        &self,
        head: &[u8],
        placement: &Placement,
        memory: &GuestMemory,
    ) -> [u8; 4096] {
        let mut page = [0u8; 4096];
        let header = head.get(HEADER..HEADER + self.header_size).unwrap_or_default();
        put(&mut page, HEADER, header);
        put(&mut page, 0x70, &layout::RSDP.to_le_bytes());
        put(&mut page, 0x210, &[0xff]);
        put(&mut page, 0x218, &(placement.initrd as u32).to_le_bytes());
        put(&mut page, 0x21c, &(placement.initrd_size as u32).to_le_bytes());
        put(&mut page, 0x228, &(layout::COMMAND_LINE as u32).to_le_bytes());
        let mut count = 0u8;
        for entry in e820::map(memory.size(), memory.high(), memory.regions()) {
            let at = 0x2d0 + usize::from(count) * 20;
            put(&mut page, at, &entry.start.to_le_bytes());
            put(&mut page, at + 8, &entry.size.to_le_bytes());
            put(&mut page, at + 16, &Kind::number(entry.kind).to_le_bytes());
            count += 1;
        }
        put(&mut page, 0x1e8, &[count]);
        page
    }
}

/// Where the initrd lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placement {
    /// Guest-physical address, page aligned.
    pub initrd: u64,
    /// Bytes; 0 without an initrd.
    pub initrd_size: u64,
}

/// Checks all, then writes kernel, initrd, zero page and command line. Returns the entry address.
pub fn load(
    memory: &GuestMemory,
    kernel: Image,
    initrd: Option<Image>,
    command_line: &[u8],
) -> Result<u64, Refusal> {
    let mut head = [0u8; 4096];
    let taken = head.len().min(kernel.size as usize);
    let head = head.get_mut(..taken).unwrap_or_default();
    // The words cover the size, which `Image::new` checked; a short read leaves zeros, no HdrS.
    let _ = GuestMemory::new(kernel.words).read(0, head);
    let image = Kernel::parse(head, kernel.size)?;
    let initrd_size = initrd.map_or(0, |image| image.size);
    let placement = image.place(memory.size(), initrd_size, command_line)?;
    let short = Refusal::KernelTooLarge { wanted: image.load, memory: memory.size() };
    copy(memory, image.load, kernel, image.payload, image.payload_size).ok_or(short)?;
    if let Some(initrd) = initrd {
        copy(memory, placement.initrd, initrd, 0, initrd.size).ok_or(short)?;
    }
    let page = image.zero_page(head, &placement, memory);
    memory.write(layout::ZERO_PAGE, &page).ok().ok_or(short)?;
    memory.write(layout::COMMAND_LINE, command_line).ok().ok_or(short)?;
    memory.write(layout::COMMAND_LINE + command_line.len() as u64, &[0]).ok().ok_or(short)?;
    Ok(image.entry())
}

/// A boot module as mapped here.
#[derive(Clone, Copy)]
pub struct Image<'a> {
    words: &'a [AtomicU64],
    size: u64,
}

impl<'a> Image<'a> {
    /// `size` bytes that lie in `words`; a size beyond them is cut.
    pub fn new(words: &'a [AtomicU64], size: u64) -> Self {
        Self { words, size: size.min(words.len() as u64 * 8) }
    }

    /// Bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Reads bytes from an offset; nothing if they are not all there.
    pub fn read(&self, offset: u64, out: &mut [u8]) -> Option<()> {
        GuestMemory::new(self.words).read(offset, out).ok()
    }
}

/// Copies `size` bytes of `image` from `offset` to guest memory at `to`.
pub fn copy(memory: &GuestMemory, to: u64, image: Image, offset: u64, size: u64) -> Option<()> {
    let source = GuestMemory::new(image.words);
    let mut buffer = [0u8; 4096];
    let mut done = 0;
    while done < size {
        let part = buffer.get_mut(..(size - done).min(4096) as usize)?;
        source.read(offset + done, part).ok()?;
        memory.write(to + done, part).ok()?;
        done += part.len() as u64;
    }
    Some(())
}

fn number(bytes: &[u8], at: usize, size: usize) -> Option<u64> {
    let mut value = [0u8; 8];
    for (to, from) in value.iter_mut().zip(bytes.get(at..at + size)?) {
        *to = *from;
    }
    Some(u64::from_le_bytes(value))
}

fn put(page: &mut [u8], at: usize, bytes: &[u8]) {
    for (to, from) in page.iter_mut().skip(at).zip(bytes) {
        *to = *from;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A bzImage of 0x20000 bytes of code that wants 0x1000000.
    fn image() -> Vec<u8> {
        let mut file = vec![0u8; 1024 + 0x20000];
        file[0x1f1] = 1;
        file[0x1f4..0x1f8].copy_from_slice(&0x2000u32.to_le_bytes());
        file[0x1fe..0x200].copy_from_slice(&0xaa55u16.to_le_bytes());
        file[0x201] = 0x6a;
        file[0x202..0x206].copy_from_slice(b"HdrS");
        file[0x206..0x208].copy_from_slice(&0x20fu16.to_le_bytes());
        file[0x22c..0x230].copy_from_slice(&0x7fff_ffffu32.to_le_bytes());
        file[0x236] = 1;
        file[0x238..0x23c].copy_from_slice(&2047u32.to_le_bytes());
        file[0x258..0x260].copy_from_slice(&0x100_0000u64.to_le_bytes());
        file[0x260..0x264].copy_from_slice(&0x30000u32.to_le_bytes());
        file[1024] = 0x90;
        file
    }

    fn words(bytes: &[u8]) -> Vec<AtomicU64> {
        bytes
            .chunks(8)
            .map(|chunk| {
                let mut word = [0; 8];
                word[..chunk.len()].copy_from_slice(chunk);
                AtomicU64::new(u64::from_le_bytes(word))
            })
            .collect()
    }

    fn blank(size: usize) -> Vec<AtomicU64> {
        (0..size / 8).map(|_| AtomicU64::new(0)).collect()
    }

    #[test]
    fn a_good_image_loads() {
        let file = image();
        let file_words = words(&file);
        let initrd = words(&[7; 5000]);
        let ram = blank(32 << 20);
        let memory = GuestMemory::new(&ram);
        let kernel = Image::new(&file_words, file.len() as u64);
        let entry =
            load(&memory, kernel, Some(Image::new(&initrd, 5000)), b"console=ttyS0").unwrap();
        assert_eq!(entry, 0x100_0200);
        assert_eq!(memory.read_number(0x100_0000, 1), Ok(0x90));
        let at = memory.read_number(layout::ZERO_PAGE + 0x218, 4).unwrap();
        assert_eq!(memory.read_number(layout::ZERO_PAGE + 0x21c, 4), Ok(5000));
        assert_eq!(at, (32 << 20) - 0x2000);
        assert_eq!(memory.read_number(at + 4999, 1), Ok(7));
        assert_eq!(memory.read_number(layout::ZERO_PAGE + 0x202, 4), Ok(0x5372_6448));
        assert!(memory.read_number(layout::ZERO_PAGE + 0x1e8, 1).unwrap() >= 3);
    }

    #[test]
    fn refusals_name_what_and_how_much() {
        let file = image();
        let full = file.len() as u64;
        assert!(matches!(
            Kernel::parse(&file[..0x230], 0x230),
            Err(Refusal::HeaderCut { length: 0x230 })
        ));
        assert_eq!(
            Kernel::parse(&file, full - 16),
            Err(Refusal::ImageCut { wanted: full, length: full - 16 })
        );
        // A part of the last paragraph is enough: so is Debian's memtest86+.
        let short = Kernel::parse(&file, full - 15).unwrap();
        assert_eq!(short.payload + short.payload_size, full - 15);
        assert!(Kernel::parse(&file[..0x400], 0x400).is_err());
        let mut old = file.clone();
        old[0x206] = 0x0b;
        assert_eq!(Kernel::parse(&old, full), Err(Refusal::TooOld { version: 0x20b }));
        let mut short = file.clone();
        short[0x236] = 0;
        assert_eq!(Kernel::parse(&short, full), Err(Refusal::No64BitEntry));
        let mut other = file.clone();
        other[0x202] = 0;
        assert_eq!(Kernel::parse(&other, full), Err(Refusal::NotBzImage));
        let good = Kernel::parse(&file, full).unwrap();
        assert!(matches!(good.place(16 << 20, 0, b""), Err(Refusal::KernelTooLarge { .. })));
        assert!(matches!(good.place(32 << 20, 64 << 20, b""), Err(Refusal::InitrdTooLarge { .. })));
        assert!(matches!(
            good.place(32 << 20, 0, &[b'a'; 3000]),
            Err(Refusal::CommandLineTooLong { .. })
        ));
    }

    #[test]
    fn random_headers_never_panic() {
        let mut seed = 1u64;
        for _ in 0..20_000 {
            let mut file = image();
            for _ in 0..6 {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let at = 0x1f1 + (seed >> 33) as usize % 0x80;
                file[at] = (seed >> 20) as u8;
            }
            if let Ok(kernel) = Kernel::parse(&file, file.len() as u64) {
                let _ = kernel.place(64 << 20, seed & 0xff_ffff, b"quiet");
            }
        }
    }
}
