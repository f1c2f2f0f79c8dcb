//! A driver in miniature against the devices; then rings that no driver would make, named and random.

use super::block::{BYTES, Block, Disk, Failed, LARGEST, SECTOR};
use super::console::{Console, ROOM};
use super::mmio::Device;
use super::net::{FRAME, Net, Wire};
use super::overlay::{BLOCK, Overlay, store_size};
use super::*;
use alloc::collections::VecDeque;
use alloc::vec;
use alloc::vec::Vec;
use core::cell::RefCell;
use proptest::prelude::*;

/// Memory from address 0.
pub(crate) struct Ram(RefCell<Vec<u8>>);

impl Ram {
    pub(crate) fn new(size: usize) -> Self {
        Self(RefCell::new(vec![0; size]))
    }
    fn bytes(&self, at: u64, size: usize) -> Vec<u8> {
        self.0.borrow()[at as usize..at as usize + size].to_vec()
    }
    pub(crate) fn put(&self, at: u64, bytes: &[u8]) {
        self.0.borrow_mut()[at as usize..at as usize + bytes.len()].copy_from_slice(bytes);
    }
}

impl Memory for Ram {
    fn holds(&self, address: u64, length: u64) -> bool {
        address.checked_add(length).is_some_and(|end| end <= self.0.borrow().len() as u64)
    }
    fn read(&self, address: u64, out: &mut [u8]) -> Result<(), Outside> {
        if !self.holds(address, out.len() as u64) {
            return Err(Outside);
        }
        out.copy_from_slice(&self.bytes(address, out.len()));
        Ok(())
    }
    fn write(&self, address: u64, bytes: &[u8]) -> Result<(), Outside> {
        if !self.holds(address, bytes.len() as u64) {
            return Err(Outside);
        }
        self.put(address, bytes);
        Ok(())
    }
}

impl Memory for &Ram {
    fn holds(&self, address: u64, length: u64) -> bool {
        (**self).holds(address, length)
    }
    fn read(&self, address: u64, out: &mut [u8]) -> Result<(), Outside> {
        (**self).read(address, out)
    }
    fn write(&self, address: u64, bytes: &[u8]) -> Result<(), Outside> {
        (**self).write(address, bytes)
    }
}

/// A disk of bytes that fails at one sector.
struct Plain(Vec<u8>, Option<u64>);

impl Disk for Plain {
    fn sectors(&self) -> u64 {
        self.0.len() as u64 / SECTOR
    }
    fn read(&mut self, at: u64, out: &mut [u8]) -> Result<(), Failed> {
        if self.1.is_some_and(|bad| (at..at + out.len() as u64).contains(&(bad * SECTOR))) {
            return Err(Failed);
        }
        out.copy_from_slice(&self.0[at as usize..at as usize + out.len()]);
        Ok(())
    }
    fn write(&mut self, at: u64, bytes: &[u8]) -> Result<(), Failed> {
        self.0[at as usize..at as usize + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }
}

/// Frames that were sent, and frames that have come.
#[derive(Default)]
struct Frames {
    sent: Vec<Vec<u8>>,
    come: VecDeque<Vec<u8>>,
}

impl Wire for Frames {
    fn send(&mut self, frame: &[u8]) {
        self.sent.push(frame.to_vec());
    }
    fn has_frame(&mut self) -> bool {
        !self.come.is_empty()
    }
    fn receive(&mut self, frame: &mut [u8; FRAME]) -> Option<usize> {
        let come = self.come.pop_front()?;
        frame[..come.len()].copy_from_slice(&come);
        Some(come.len())
    }
}

const RAM: usize = 1 << 20;
const SIZE: u16 = 16;
/// Where queue `n` lies.
fn ring(n: u64) -> u64 {
    0x1000 * (n + 1)
}
const DRIVER: u64 = 0x400;
const USED: u64 = 0x800;
const DATA: u64 = 0x1_0000;
const FLAG_NEXT: u16 = 1;
const FLAG_WRITE: u16 = 2;
const FLAG_INDIRECT: u16 = 4;

fn descriptor(address: u64, length: u32, flags: u16, next: u16) -> [u8; 16] {
    let word = u128::from(address)
        | u128::from(length) << 64
        | u128::from(flags) << 96
        | u128::from(next) << 112;
    word.to_le_bytes()
}

fn start<M: Model>(device: &mut Device<M>) {
    for (offset, value) in [(0x70, 0), (0x70, 3), (0x24, 1), (0x20, 1), (0x24, 0)] {
        device.write(offset, 4, value);
    }
    device.write(0x20, 4, INDIRECT);
    device.write(0x70, 4, 11);
    assert_eq!(device.read(0x70, 4), 11);
    for n in 0..2 {
        let at = ring(n);
        device.write(0x30, 4, n);
        for (offset, value) in
            [(0x38, SIZE.into()), (0x80, at), (0x90, at + DRIVER), (0xa0, at + USED), (0x44, 1)]
        {
            device.write(offset, 4, value);
        }
    }
    device.write(0x70, 4, 15);
}

/// Offers a chain of (address, length, writable) at descriptor 0 of queue `n`.
fn offer(ram: &Ram, n: u64, pieces: &[(u64, u32, bool)]) {
    for (index, (address, length, writable)) in (0_u16..).zip(pieces) {
        let last = usize::from(index) + 1 == pieces.len();
        let flags = if *writable { FLAG_WRITE } else { 0 } | if last { 0 } else { FLAG_NEXT };
        let bytes = descriptor(*address, *length, flags, index + 1);
        ram.put(ring(n) + u64::from(index) * 16, &bytes);
    }
    offer_head(ram, n, 0);
}

fn offer_head(ram: &Ram, n: u64, head: u16) {
    let at = ring(n) + DRIVER;
    let index = u16::from_le_bytes(ram.bytes(at + 2, 2).try_into().unwrap());
    ram.put(at + 4 + u64::from(index % SIZE) * 2, &head.to_le_bytes());
    ram.put(at + 2, &index.wrapping_add(1).to_le_bytes());
}

/// How many chains came back, and what the last one says was written.
fn used(ram: &Ram, n: u64) -> (u16, u32) {
    let at = ring(n) + USED;
    let index = u16::from_le_bytes(ram.bytes(at + 2, 2).try_into().unwrap());
    let last = at + 4 + u64::from(index.wrapping_sub(1) % SIZE) * 8;
    (index, u32::from_le_bytes(ram.bytes(last + 4, 4).try_into().unwrap()))
}

fn request(ram: &Ram, kind: u32, sector: u64) {
    ram.put(DATA, &kind.to_le_bytes());
    ram.put(DATA + 8, &sector.to_le_bytes());
    ram.put(DATA + 0xf00, &[0xee]);
}

const HEAD: (u64, u32, bool) = (DATA, 16, false);
const TAIL: (u64, u32, bool) = (DATA + 0xf00, 1, true);

fn block() -> (Ram, Device<Block<Plain>>) {
    let bytes = (0..64 * 512_u32).map(|at| (at / 512 + at) as u8).collect();
    let mut device = Device::new(Block::new(Plain(bytes, Some(40)), "disk"));
    start(&mut device);
    (Ram::new(RAM), device)
}

fn status(ram: &Ram) -> u8 {
    ram.bytes(DATA + 0xf00, 1)[0]
}

#[test]
fn the_registers_say_what_linux_asks_for() {
    let (_, device) = block();
    assert_eq!(device.read(0, 4), 0x7472_6976);
    assert_eq!((device.read(4, 4), device.read(8, 4)), (2, 2));
    assert_eq!(device.read(0x100, 8), 64, "capacity in sectors");
    assert_eq!(device.read(0x100, 4), 64);
    assert_eq!(device.read(0x10c, 4), 32);
    assert_eq!(device.read(0xb0, 4), 0xffff_ffff, "no shared memory");
    assert_eq!(device.read(0, 1), 0, "registers are 32 bits wide");
}

#[test]
fn a_driver_without_version_1_does_not_begin() {
    let (ram, mut device) = block();
    for (offset, value) in [(0x70, 0), (0x70, 3), (0x20, INDIRECT), (0x70, 11)] {
        device.write(offset, 4, value);
    }
    assert_eq!(device.read(0x70, 4), 3);
    assert!(!device.write(0x70, 4, 7), "no driver without features");
    assert_eq!(device.serve(&ram), None);
}

#[test]
fn sectors_are_read_and_written() {
    let (ram, mut device) = block();
    request(&ram, 0, 3);
    offer(&ram, 0, &[HEAD, (DATA + 0x1000, 1000, true), (DATA + 0x2000, 24, true), TAIL]);
    assert!(device.write(0x50, 4, 0));
    assert_eq!(device.serve(&ram), None);
    assert_eq!((status(&ram), used(&ram, 0)), (0, (1, 1025)));
    assert_eq!(ram.bytes(DATA + 0x1000, 2), [3, 4], "sector 3 begins with byte 3 + 0");
    assert!(device.irq());
    device.write(0x64, 4, 1);
    assert!(!device.irq());

    ram.put(DATA + 0x1000, &[7; 512]);
    request(&ram, 1, 63);
    offer(&ram, 0, &[HEAD, (DATA + 0x1000, 512, false), TAIL]);
    ram.put(ring(0) + DRIVER, &[1]);
    device.serve(&ram);
    assert_eq!((status(&ram), used(&ram, 0)), (0, (2, 1)));
    assert!(!device.irq(), "the driver did not want an interrupt");
    assert_eq!(device.model().disk().0[63 * 512..], [7; 512]);
}

#[test]
fn what_the_disk_cannot_do_is_answered() {
    let cases: &[(u32, u64, u32, u8)] = &[
        (0, 64, 512, 1),
        (0, 63, 1024, 1),
        (0, u64::MAX, 512, 1),
        (0, 1 << 60, 512, 1),
        (0, 0, 511, 1),
        (0, 40, 512, 1),
        (8, 0, 20, 0),
        (8, 0, 19, 2),
        (4, 0, 0, 0),
        (11, 0, 0, 2),
        (0, 0, 0, 0),
    ];
    for (kind, sector, length, wanted) in cases {
        let (ram, mut device) = block();
        request(&ram, *kind, *sector);
        offer(&ram, 0, &[HEAD, (DATA + 0x1000, *length, true), TAIL]);
        assert_eq!(device.serve(&ram), None);
        assert_eq!(status(&ram), *wanted, "kind {kind} sector {sector} length {length}");
    }
    assert_eq!(
        &{
            let (ram, mut device) = block();
            request(&ram, 8, 0);
            offer(&ram, 0, &[HEAD, (DATA + 0x1000, 20, true), TAIL]);
            device.serve(&ram);
            ram.bytes(DATA + 0x1000, 6)
        },
        b"disk\0\0"
    );
}

#[test]
fn a_request_may_stand_in_a_table_of_its_own() {
    let (ram, mut device) = block();
    request(&ram, 0, 0);
    let table = DATA + 0x8000;
    ram.put(table, &descriptor(DATA, 16, FLAG_NEXT, 2));
    ram.put(table + 32, &descriptor(DATA + 0x1000, 512, FLAG_NEXT | FLAG_WRITE, 1));
    ram.put(table + 16, &descriptor(DATA + 0xf00, 1, FLAG_WRITE, 0));
    ram.put(ring(0) + 16 * 5, &descriptor(table, 48, FLAG_INDIRECT, 0));
    offer_head(&ram, 0, 5);
    assert_eq!(device.serve(&ram), None);
    assert_eq!((status(&ram), used(&ram, 0)), (0, (1, 513)));
    assert_eq!(ram.bytes(ring(0) + USED + 4, 1), [5], "the head comes back");
}

/// What a hostile driver can do to queue 0, and what is said of it.
#[test]
fn each_broken_ring_is_named_once_and_stops_the_device() {
    type Break = fn(&Ram);
    let cases: &[(Broken, Break)] = &[
        (Broken::Index, |ram| ram.put(ring(0) + DRIVER + 2, &(SIZE + 1).to_le_bytes())),
        (Broken::Index, |ram| ram.put(ring(0) + DRIVER + 2, &u16::MAX.to_le_bytes())),
        (Broken::Descriptor, |ram| offer_head(ram, 0, SIZE)),
        (Broken::Descriptor, |ram| {
            ram.put(ring(0), &descriptor(DATA, 1, FLAG_NEXT, u16::MAX));
            offer_head(ram, 0, 0);
        }),
        (Broken::Endless, |ram| {
            ram.put(ring(0), &descriptor(DATA, 1, FLAG_NEXT, 0));
            offer_head(ram, 0, 0);
        }),
        (Broken::Outside, |ram| offer(ram, 0, &[HEAD, (RAM as u64, 1, true)])),
        (Broken::Outside, |ram| offer(ram, 0, &[HEAD, (RAM as u64 - 1, 2, true)])),
        (Broken::Outside, |ram| offer(ram, 0, &[HEAD, (u64::MAX, u32::MAX, true)])),
        (Broken::Order, |ram| offer(ram, 0, &[HEAD, TAIL, HEAD])),
        (Broken::Short, |ram| offer(ram, 0, &[(DATA, 15, false), TAIL])),
        (Broken::Short, |ram| offer(ram, 0, &[HEAD])),
        (Broken::Short, |ram| offer(ram, 0, &[HEAD, (DATA, 0, true)])),
        (Broken::Indirect, |ram| indirect(ram, DATA, 0, 0)),
        (Broken::Indirect, |ram| indirect(ram, DATA, 17, 0)),
        (Broken::Indirect, |ram| indirect(ram, DATA, 16 * (u32::from(SIZE) + 1), 0)),
        (Broken::Indirect, |ram| indirect(ram, DATA, !15, 0)),
        (Broken::Indirect, |ram| indirect(ram, DATA, 16, FLAG_NEXT)),
        (Broken::Outside, |ram| indirect(ram, u64::MAX - 15, 16, 0)),
        (Broken::Outside, |ram| indirect(ram, RAM as u64, 16, 0)),
        (Broken::Descriptor, |ram| {
            ram.put(DATA, &descriptor(DATA, 1, FLAG_NEXT, 1));
            indirect(ram, DATA, 16, 0);
        }),
        (Broken::Indirect, |ram| {
            ram.put(DATA, &descriptor(DATA, 16, FLAG_INDIRECT, 0));
            indirect(ram, DATA, 16, 0);
        }),
        (Broken::Endless, |ram| {
            ram.put(DATA, &descriptor(DATA, 16, FLAG_NEXT, 0));
            indirect(ram, DATA, 16, 0);
        }),
    ];
    for (number, (wanted, broken)) in cases.iter().enumerate() {
        let (ram, mut device) = block();
        request(&ram, 0, 0);
        broken(&ram);
        assert_eq!(device.serve(&ram), Some(*wanted), "case {number}");
        assert_eq!(device.read(0x70, 4), 15 | 64, "DEVICE_NEEDS_RESET");
        assert!(device.irq());
        assert_eq!((device.serve(&ram), device.more()), (None, false), "said once");
        // The driver cannot take the bit away, but can begin again.
        device.write(0x70, 4, 15);
        assert_eq!(device.read(0x70, 4), 15 | 64);
        start(&mut device);
        ram.put(ring(0), &[0; 0x1000]);
        request(&ram, 4, 0);
        offer(&ram, 0, &[HEAD, TAIL]);
        assert_eq!((device.serve(&ram), status(&ram)), (None, 0));
    }
}

fn indirect(ram: &Ram, table: u64, length: u32, more: u16) {
    ram.put(ring(0), &descriptor(table, length, FLAG_INDIRECT | more, 0));
    offer_head(ram, 0, 0);
}

#[test]
fn one_call_moves_only_so_much() {
    let bytes = vec![0; 4 << 20];
    let mut device = Device::new(Block::new(Plain(bytes, None), "disk"));
    start(&mut device);
    let ram = Ram::new(4 << 20);
    request(&ram, 0, 0);
    offer(&ram, 0, &[HEAD, (0x10_0000, LARGEST as u32, true), TAIL]);
    for _ in 0..3 {
        offer_head(&ram, 0, 0);
    }
    for round in 1..=4 {
        assert_eq!(device.serve(&ram), None);
        assert_eq!((used(&ram, 0).0, device.more()), (round, round < 4));
    }
    const { assert!(LARGEST > BYTES) };
    request(&ram, 0, 0);
    offer(&ram, 0, &[HEAD, (0x10_0000, LARGEST as u32 + 512, true), TAIL]);
    device.serve(&ram);
    assert_eq!(status(&ram), 1);
}

fn net() -> (Ram, Device<Net<Frames>>) {
    let mut device = Device::new(Net::new(Frames::default(), [2, 0, 0, 0, 0, 9]));
    start(&mut device);
    (Ram::new(RAM), device)
}

#[test]
fn frames_go_out_and_come_in() {
    let (ram, mut device) = net();
    assert_eq!(device.read(0x100, 4), 2);
    assert_eq!(device.read(0x105, 1), 9);
    assert_eq!(device.read(0x106, 2), 1, "the link is up");
    ram.put(DATA + 12, &[5; 60]);
    offer(&ram, 1, &[(DATA, 12, false), (DATA + 12, 60, false)]);
    assert_eq!(device.serve(&ram), None);
    assert_eq!(device.model().wire().sent, [vec![5; 60]]);
    assert_eq!(used(&ram, 1), (1, 0));

    // What has no buffer waits; a buffer in two pieces takes it.
    device.model().wire().come.push_back(vec![6; 100]);
    assert_eq!((device.serve(&ram), device.more()), (None, false));
    assert_eq!(used(&ram, 0).0, 0);
    offer(&ram, 0, &[(DATA + 0x1000, 12, true), (DATA + 0x2000, 1518, true)]);
    assert_eq!(device.serve(&ram), None);
    assert_eq!(used(&ram, 0), (1, 112));
    assert_eq!(ram.bytes(DATA + 0x100a, 2), [1, 0]);
    assert_eq!(ram.bytes(DATA + 0x2000, 101), [vec![6; 100], vec![0]].concat());
}

#[test]
fn frames_of_no_length_are_not_sent() {
    for length in [0, 13, FRAME as u32 + 1, 0x8000] {
        let (ram, mut device) = net();
        offer(&ram, 1, &[(DATA, 12, false), (DATA, length, false)]);
        assert_eq!(device.serve(&ram), None);
        assert_eq!((used(&ram, 1).0, device.model().wire().sent.len()), (1, 0), "{length}");
    }
    let (ram, mut device) = net();
    offer(&ram, 1, &[(DATA, 11, false)]);
    assert_eq!(device.serve(&ram), Some(Broken::Short));
    let (ram, mut device) = net();
    device.model().wire().come.push_back(vec![6; 100]);
    offer(&ram, 0, &[(DATA, 111, true)]);
    assert_eq!(device.serve(&ram), Some(Broken::Short));
}

#[test]
fn bytes_are_typed_and_sent() {
    let mut device = Device::new(Console::default());
    start(&mut device);
    let ram = Ram::new(RAM);
    assert_eq!(device.model().receive(b"hello"), 5);
    assert_eq!((device.serve(&ram), device.more()), (None, false));
    offer(&ram, 0, &[(DATA, 3, true)]);
    assert_eq!((device.serve(&ram), device.more()), (None, false));
    assert_eq!((used(&ram, 0), ram.bytes(DATA, 4)), ((1, 3), b"hel\0".to_vec()));
    offer(&ram, 0, &[(DATA, 8, true)]);
    device.serve(&ram);
    assert_eq!((used(&ram, 0), ram.bytes(DATA, 3)), ((2, 2), b"lol".to_vec()));
    assert_eq!(device.model().receive(&[0; 2 * ROOM]), ROOM);

    ram.put(DATA, b"bye");
    offer(&ram, 1, &[(DATA, 2, false), (DATA + 2, 1, false)]);
    device.serve(&ram);
    assert!(device.model().has_output());
    assert_eq!(device.model().take_output(), b"bye");
    // A chain without bytes is given back, one without room for a byte is broken.
    offer(&ram, 1, &[(DATA, 0, false)]);
    assert_eq!((device.serve(&ram), used(&ram, 1).0), (None, 2));
    offer(&ram, 0, &[(DATA, 0, true)]);
    assert_eq!(device.serve(&ram), Some(Broken::Short));
}

#[test]
fn what_is_sent_waits_for_room() {
    let mut device = Device::new(Console::default());
    start(&mut device);
    let ram = Ram::new(RAM);
    let text: Vec<u8> = (0..2 * ROOM + 7).map(|at| (at % 251) as u8).collect();
    ram.put(DATA, &text);
    offer(&ram, 1, &[(DATA, text.len() as u32, false)]);
    let mut sent = Vec::new();
    for round in 0..3 {
        assert_eq!((device.serve(&ram), device.more()), (None, false));
        assert_eq!((device.serve(&ram), device.more()), (None, false), "nothing without room");
        assert_eq!(used(&ram, 1).0, u16::from(round == 2));
        sent.extend(device.model().take_output());
    }
    assert_eq!(sent, text);
    // A chain that has become shorter than what was sent of it has no more.
    offer(&ram, 1, &[(DATA, text.len() as u32, false)]);
    device.serve(&ram);
    device.model().take_output();
    ram.put(ring(1), &descriptor(DATA, 1, 0, 0));
    assert_eq!((device.serve(&ram), used(&ram, 1).0), (None, 2));
    assert!(!device.model().has_output());
}

#[test]
fn a_store_has_room_for_what_may_change() {
    assert_eq!(store_size(0, 0), Some(0));
    assert_eq!(store_size(1, u64::MAX), Some(2 * BLOCK));
    assert_eq!(store_size(1024 * BLOCK, 2 * BLOCK), Some(3 * BLOCK));
    assert_eq!(store_size(1024 * BLOCK + 1, BLOCK + 1), Some(4 * BLOCK));
    assert_eq!(store_size(u64::MAX, u64::MAX), None);
}

#[test]
fn a_full_store_fails_and_keeps_what_it_has() {
    let image = Ram::new(4 * BLOCK as usize);
    let store = Ram::new(store_size(4 * BLOCK, BLOCK).unwrap() as usize);
    let mut disk = Overlay::new(image, 4 * BLOCK, store);
    assert_eq!(disk.write(BLOCK, &[1; 512]), Ok(()));
    assert_eq!(disk.write(0, &[2; 512]), Err(Failed));
    assert_eq!(disk.write(BLOCK + 512, &[3; 512]), Ok(()));
    let mut out = [9; 2048];
    disk.read(BLOCK - 512, &mut out).unwrap();
    assert_eq!(out, [[0; 512], [1; 512], [3; 512], [0; 512]].concat()[..]);
    assert_eq!(disk.changed(), 1);
}

/// Numbers that rings are likely to hold, and any.
fn numbers() -> impl Strategy<Value = u64> {
    prop_oneof![0..64_u64, 0..RAM as u64, Just(u64::MAX), Just(RAM as u64 - 8), any::<u64>()]
}

fn descriptors() -> impl Strategy<Value = Vec<(u64, u32, u16, u16)>> {
    let length = prop_oneof![0..64_u32, 0..5000_u32, Just(u32::MAX), any::<u32>()];
    let next = prop_oneof![0..SIZE, any::<u16>()];
    proptest::collection::vec((numbers(), length, 0..8_u16, next), usize::from(SIZE))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Rings of random descriptors, heads and indices, kicked again and again: no panic, no endless
    /// work, and a device that is broken stays so.
    #[test]
    fn random_rings_are_survived(
        table in descriptors(),
        heads in proptest::collection::vec(prop_oneof![0..SIZE, any::<u16>()], usize::from(SIZE)),
        jumps in proptest::collection::vec(prop_oneof![0..4_u16, any::<u16>()], 8),
        registers in proptest::collection::vec((0..0x120_u64, numbers()), 8),
        scribble in proptest::collection::vec((numbers(), any::<u64>()), 8),
    ) {
        let (ram, mut disk) = block();
        let (_, mut net) = net();
        let mut console = Device::new(Console::default());
        start(&mut console);
        let mut index = 0_u16;
        for n in 0..2 {
            for (slot, (address, length, flags, next)) in table.iter().enumerate() {
                let bytes = descriptor(*address, *length, *flags, *next);
                ram.put(ring(n) + slot as u64 * 16, &bytes);
            }
            for (slot, head) in heads.iter().enumerate() {
                ram.put(ring(n) + DRIVER + 4 + slot as u64 * 2, &head.to_le_bytes());
            }
        }
        for ((jump, (register, value)), (at, word)) in jumps.iter().zip(registers).zip(scribble) {
            index = index.wrapping_add(*jump);
            for n in 0..2 {
                ram.put(ring(n) + DRIVER + 2, &index.to_le_bytes());
            }
            net.model().wire().come.push_back(vec![1; 60]);
            console.model().receive(&[1; 100]);
            for _ in 0..3 {
                let _ = console.serve(&ram);
                prop_assert!(console.model().take_output().len() <= ROOM);
                let needs_reset = |status: u64| status & 64 != 0;
                let (was, net_was) = (disk.read(0x70, 4), net.read(0x70, 4));
                let (said, net_said) = (disk.serve(&ram), net.serve(&ram));
                prop_assert!(!(needs_reset(was) && said.is_some()));
                prop_assert!(!(needs_reset(net_was) && net_said.is_some()));
                prop_assert!(said.is_none() || needs_reset(disk.read(0x70, 4)));
            }
            for size in [1, 2, 4, 8] {
                let _ = (disk.read(register, size), net.read(register, size));
            }
            disk.write(register & !3, 4, value);
            net.write(register & !3, 4, value);
            let _ = ram.write(at, &word.to_le_bytes());
        }
        prop_assert!(net.model().wire().sent.iter().all(|frame| frame.len() <= FRAME));
        prop_assert_eq!(disk.model().disk().0.len(), 64 * 512);
    }

    /// A disk over an image and a store is as good as one of bytes, and the image stays as it was.
    #[test]
    fn an_overlay_is_a_disk(
        size in 1..6 * BLOCK,
        steps in proptest::collection::vec((any::<bool>(), 0..6 * BLOCK, 0..2 * BLOCK, any::<u8>()), 1..40),
    ) {
        let bytes: Vec<u8> = (0..size).map(|at| (at * 7 + at / 251) as u8).collect();
        let image = Ram::new(size as usize);
        image.put(0, &bytes);
        let store = Ram::new(store_size(size, u64::MAX).unwrap() as usize);
        let mut model = bytes.clone();
        model.resize(size.next_multiple_of(SECTOR) as usize, 0);
        let mut disk = Overlay::new(&image, size, &store);
        prop_assert_eq!(disk.sectors() * SECTOR, model.len() as u64);
        for (write, at, length, value) in steps {
            let at = at.min(model.len() as u64) as usize;
            let end = model.len().min(at + length as usize);
            if write {
                model[at..end].fill(value);
                prop_assert_eq!(disk.write(at as u64, &vec![value; end - at]), Ok(()));
            } else {
                let mut out = vec![0xaa; end - at];
                prop_assert_eq!(disk.read(at as u64, &mut out), Ok(()));
                prop_assert_eq!(&out, &model[at..end]);
            }
        }
        prop_assert_eq!(image.0.into_inner(), bytes);
    }
}
