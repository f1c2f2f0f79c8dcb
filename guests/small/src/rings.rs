//! A driver from hell: rings that make no sense, for every virtio device it finds (virtio 1.2, 2.7 and 4.2).
//!
//! Each way to break a ring, by name, must break the device, which then wants a reset (`docs/devices.md`, "Virtio"); after the
//! reset it works. Then rings full of random words, for both queues of a device, random words in registers, and the same check. What devices are
//! told to write goes to this program's own arena, or to no memory at all.

use crate::machine;
use crate::println;
use crate::random::Random;
use crate::tests::Failure;
use core::sync::atomic::{AtomicU16, Ordering, fence};

/// Where devices may be: pages from the first address.
const FIRST: u64 = 0xfed0_0000;
const PAGE: u64 = 0x1000;
const DEVICES: u64 = 16;
/// The magic value of the registers, and numbers of devices: network, disk, console.
const MAGIC: u32 = 0x7472_6976;
const NET: u32 = 1;
const DISK: u32 = 2;
const CONSOLE: u32 = 3;
/// Bits of the status: all well, and needs a reset.
const RUNS: u32 = 15;
const NEEDS_RESET: u32 = 64;
/// Flags of a descriptor: another follows, writable, a table of descriptors.
const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;
/// Descriptors of a ring.
const SIZE: u16 = 16;
/// No memory of this guest: a hole, and the last bytes of the address space.
const HOLE: u64 = 0xd000_0000;
const END: u64 = u64::MAX - 0xf;
/// Rounds of random rings for each device.
const ROUNDS: u32 = 1000;

/// Words of the arena: what is given to devices is in its first 16 KiB and at most 64 KiB long.
const WORDS: usize = (128 << 10) / 2;

#[repr(align(4096))]
struct Arena([AtomicU16; WORDS]);

static ARENA: Arena = Arena([const { AtomicU16::new(0) }; WORDS]);
/// Offsets in the arena: rings, an indirect table, a request for a disk, a frame behind its header, other bytes.
const DESCRIPTORS: u64 = 0;
const DRIVER: u64 = 0x400;
const DEVICE: u64 = 0x800;
const TABLE: u64 = 0xc00;
const REQUEST: u64 = 0x1000;
const FRAME: u64 = 0x2000;
const BYTES: u64 = 0x3000;
/// Bytes of the frame with its header.
const FRAME_SIZE: u32 = 12 + 64;

/// The address of an offset in the arena.
fn at(offset: u64) -> u64 {
    (&raw const ARENA) as u64 + offset
}

/// Writes so many 16-bit words of a number.
fn put(offset: u64, words: u32, value: u64) {
    let places = ARENA.0.iter().skip(offset as usize / 2).take(words as usize);
    places
        .zip(0..)
        .for_each(|(place, word)| place.store((value >> (16 * word)) as u16, Ordering::Relaxed));
}

fn get(offset: u64) -> u16 {
    ARENA.0.get(offset as usize / 2).map_or(0, |word| word.load(Ordering::Relaxed))
}

/// A descriptor of the ring's table, or of the one at [`TABLE`].
fn describe(table: u64, index: u16, address: u64, length: u32, flags: u16, next: u16) {
    let place = table + 16 * u64::from(index);
    put(place, 4, address);
    put(place + 8, 4, u64::from(length) | u64::from(flags) << 32 | u64::from(next) << 48);
}

/// Offers these chains, and says that there are so many.
fn offer(heads: &[u16], index: u16) {
    for (slot, head) in (0..).zip(heads) {
        put(DRIVER + 4 + 2 * slot, 1, (*head).into());
    }
    fence(Ordering::SeqCst);
    put(DRIVER + 2, 1, index.into());
}

/// A chain that every device understands: for a disk it reads sector 0.
fn good() {
    put(REQUEST, 8, 0);
    describe(DESCRIPTORS, 0, at(REQUEST), 16, NEXT, 1);
    describe(DESCRIPTORS, 1, at(BYTES), 513, WRITE, 0);
    offer(&[0], 1);
}

/// A ring that is broken, by name, with what is offered in it.
type Case = (&'static str, fn());

const CASES: &[Case] = &[
    ("index", || offer(&[], u16::MAX)),
    ("one too many", || offer(&[0; 16], SIZE + 1)),
    ("head", || offer(&[SIZE], 1)),
    ("head of all ones", || offer(&[u16::MAX], 1)),
    ("next", || {
        describe(DESCRIPTORS, 0, at(REQUEST), 16, NEXT, 200);
        offer(&[0], 1);
    }),
    ("loop of one", || {
        describe(DESCRIPTORS, 0, at(REQUEST), 16, NEXT, 0);
        offer(&[0], 1);
    }),
    ("loop of two", || {
        describe(DESCRIPTORS, 0, at(REQUEST), 16, NEXT, 1);
        describe(DESCRIPTORS, 1, at(BYTES), 16, NEXT, 0);
        offer(&[0], 1);
    }),
    ("buffer in a hole", || {
        describe(DESCRIPTORS, 0, HOLE, 16, 0, 0);
        offer(&[0], 1);
    }),
    ("buffer in a device", || {
        describe(DESCRIPTORS, 0, FIRST, 16, 0, 0);
        offer(&[0], 1);
    }),
    ("buffer past the end", || {
        describe(DESCRIPTORS, 0, END, 64, 0, 0);
        offer(&[0], 1);
    }),
    ("huge length", || {
        describe(DESCRIPTORS, 0, at(BYTES), u32::MAX, 0, 0);
        offer(&[0], 1);
    }),
    ("huge length to write", || {
        describe(DESCRIPTORS, 0, at(REQUEST), 16, NEXT, 1);
        describe(DESCRIPTORS, 1, at(BYTES), u32::MAX, WRITE, 0);
        offer(&[0], 1);
    }),
    ("order", || {
        describe(DESCRIPTORS, 0, at(BYTES), 513, WRITE | NEXT, 1);
        describe(DESCRIPTORS, 1, at(REQUEST), 16, 0, 0);
        offer(&[0], 1);
    }),
    ("odd table", || {
        describe(DESCRIPTORS, 0, at(TABLE), 17, INDIRECT, 0);
        offer(&[0], 1);
    }),
    ("empty table", || {
        describe(DESCRIPTORS, 0, at(TABLE), 0, INDIRECT, 0);
        offer(&[0], 1);
    }),
    ("huge table", || {
        describe(DESCRIPTORS, 0, at(TABLE), 0xffff_fff0, INDIRECT, 0);
        offer(&[0], 1);
    }),
    ("table in a hole", || {
        describe(DESCRIPTORS, 0, HOLE, 32, INDIRECT, 0);
        offer(&[0], 1);
    }),
    ("table in a table", || {
        describe(DESCRIPTORS, 0, at(TABLE), 16, INDIRECT, 0);
        describe(TABLE, 0, at(TABLE), 16, INDIRECT, 0);
        offer(&[0], 1);
    }),
    ("table that goes on", || {
        describe(DESCRIPTORS, 0, at(TABLE), 16, INDIRECT | NEXT, 1);
        offer(&[0], 1);
    }),
];

/// The registers of a device.
struct Device {
    address: u64,
    id: u32,
}

impl Device {
    /// The device in a page, if there is one.
    fn find(number: u64) -> Option<Self> {
        let address = FIRST + number * PAGE;
        let id = machine::read32(address + 8);
        (machine::read32(address) == MAGIC && matches!(id, NET | DISK | CONSOLE))
            .then_some(Self { address, id })
    }

    fn put(&self, offset: u64, value: u32) {
        machine::write32(self.address + offset, value);
    }

    /// The queue whose chains it takes at once: of a network device or a console the one to transmit.
    fn queue(&self) -> u32 {
        u32::from(self.id != DISK)
    }

    /// Resets it and lets it begin with its rings at these addresses, for some queues; the rings are empty.
    fn begin(&self, queues: core::ops::RangeInclusive<u32>, rings: [u64; 3]) {
        put(DRIVER, 2, 0);
        put(DEVICE, 2, 0);
        // Reset, known, VERSION_1 and INDIRECT_DESC accepted.
        for (offset, value) in
            [(0x70, 0), (0x70, 3), (0x24, 1), (0x20, 1), (0x24, 0), (0x20, 1 << 28), (0x70, 11)]
        {
            self.put(offset, value);
        }
        for queue in queues {
            self.put(0x30, queue);
            self.put(0x38, SIZE.into());
            for (offset, ring) in [0x80, 0x90, 0xa0].into_iter().zip(rings) {
                self.put(offset, ring as u32);
                self.put(offset + 4, (ring >> 32) as u32);
            }
            self.put(0x44, 1);
        }
        self.put(0x70, RUNS);
    }

    /// Rings its bell: its status afterwards.
    fn kick(&self) -> u32 {
        fence(Ordering::SeqCst);
        self.put(0x50, self.queue());
        machine::read32(self.address + 0x70)
    }

    fn expect(&self, what: &'static str, status: u32) -> Result<(), Failure> {
        match self.kick() {
            found if found == status => Ok(()),
            found => Err(Failure::Off(what, status.into(), found.into())),
        }
    }

    /// It works: it takes a chain and gives it back.
    fn works(&self) -> Result<(), Failure> {
        self.begin(self.queue()..=self.queue(), RINGS.map(at));
        good();
        self.expect("status of a good ring", RUNS)?;
        match get(DEVICE + 2) {
            1 => Ok(()),
            used => Err(Failure::Off("chains given back", 1, used.into())),
        }
    }
}

const RINGS: [u64; 3] = [DESCRIPTORS, DRIVER, DEVICE];

/// All devices, all cases, then random ones.
pub fn rings() -> Result<(), Failure> {
    let mut found = 0;
    for device in (0..DEVICES).filter_map(Device::find) {
        found += 1;
        device.works()?;
        for (name, case) in CASES {
            device.begin(device.queue()..=device.queue(), RINGS.map(at));
            case();
            device.expect(name, RUNS | NEEDS_RESET)?;
            // It stays so, whatever is offered.
            offer(&[], 0);
            device.expect(name, RUNS | NEEDS_RESET)?;
        }
        for (name, ring, address) in [
            ("descriptors in a hole", 0, HOLE),
            ("descriptors past the end", 0, END),
            ("available ring in a hole", 1, HOLE),
            ("available ring past the end", 1, END),
            ("used ring in a hole", 2, HOLE),
            ("used ring in a device", 2, FIRST),
            ("used ring past the end", 2, END),
        ] {
            let mut rings = RINGS.map(at);
            if let Some(place) = rings.get_mut(ring) {
                *place = address;
            }
            device.begin(device.queue()..=device.queue(), rings);
            good();
            device.expect(name, RUNS | NEEDS_RESET)?;
        }
        device.works()?;
        random(&device);
        device.works()?;
        registers(&device);
        device.works()?;
        println!(
            "small: device {} at {:#x} has had {ROUNDS} random rings",
            device.id, device.address
        );
    }
    if found == 0 { Err(Failure::Off("virtio devices", 1, 0)) } else { Ok(()) }
}

/// Rings of random words, some of which make sense.
fn random(device: &Device) {
    let mut random = Random(device.address);
    // A frame for everybody from this device, and a disk's request.
    put(FRAME, 6, 0);
    put(FRAME + 12, 3, u64::MAX);
    for byte in (0..6).step_by(2) {
        put(FRAME + 18 + byte, 1, machine::read(device.address + 0x100 + byte, 2));
    }
    for round in 0..ROUNDS {
        if round % 4 == 0 || machine::read32(device.address + 0x70) != RUNS {
            let mut rings = RINGS.map(at);
            if random.below(8) == 0
                && let Some(place) = rings.get_mut(random.below(3) as usize)
            {
                *place = address(&mut random);
            }
            let last = if device.id == DISK { 0 } else { 1 };
            device.begin(0..=last, rings);
        }
        put(REQUEST, 8, random.below(12));
        for index in 0..SIZE {
            let (address, length) = buffer(&mut random);
            // What a console is sent comes out at a serial line: not much, then.
            let prints = device.id == CONSOLE && length <= 0x1_0000;
            let length = if prints { length.min(8) } else { length };
            let flags = [0, NEXT, WRITE, WRITE | NEXT, INDIRECT, 7];
            let flags = flags.get(random.below(6) as usize).copied().unwrap_or(0);
            let next =
                if random.below(16) == 0 { random.next() } else { random.below(SIZE.into()) };
            describe(DESCRIPTORS, index, address, length, flags, next as u16);
            put(DRIVER + 4 + 2 * u64::from(index), 1, random.below(u64::from(SIZE) + 1));
        }
        let index = if random.below(16) == 0 {
            random.next() as u16
        } else {
            get(DEVICE + 2) + random.below(4) as u16
        };
        put(DRIVER + 2, 1, index.into());
        device.kick();
    }
}

/// Random words in the registers, apart from the addresses of rings, which stay in the arena.
fn registers(device: &Device) {
    const ADDRESSES: core::ops::Range<u64> = 0x80..0xa8;
    let mut random = Random(!device.address);
    for _ in 0..ROUNDS {
        if random.below(16) == 0 {
            device.begin(device.queue()..=device.queue(), RINGS.map(at));
            good();
        }
        let offset = [0x30, 0x38, 0x44, 0x50, 0x70, random.below(0x1000)];
        let offset = offset.get(random.below(6) as usize).copied().unwrap_or(0);
        machine::read(device.address + offset, 1 << random.below(4));
        if !ADDRESSES.contains(&(offset & !3)) {
            let value = [random.below(20), random.next(), u64::MAX];
            let value = value.get(random.below(3) as usize).copied().unwrap_or(0);
            device.put(offset & !3, value as u32);
        }
    }
}

/// An address in the arena or where no memory is.
fn address(random: &mut Random) -> u64 {
    match random.below(4) {
        0 => HOLE + random.below(0x1000),
        1 => END - random.below(64),
        _ => at(random.below(0x4000)),
    }
}

/// A buffer: something sensible, a piece of the arena, or nonsense.
fn buffer(random: &mut Random) -> (u64, u32) {
    match random.below(8) {
        0 | 1 => (at(REQUEST), 16),
        2 | 3 => (at(FRAME), FRAME_SIZE),
        4 => (at(BYTES), 513),
        5 => (at(random.below(0x4000)), random.below(0x1_0001) as u32),
        6 => (
            at(random.below(0x4000)),
            [u32::MAX, 0x7fff_ffff, 1 << 24][random.below(3) as usize % 3],
        ),
        _ => (address(random), random.below(64) as u32 * 16),
    }
}
