//! The guest's virtio devices: their places in its memory, their wires, and what is behind them.
//!
//! A kick and the work that it left over are done by the thread of a virtual processor, in its time. The
//! thread that hears of frames only says that there is something to do ([`Bus::arrived`]).
use crate::frames::{Ring, Sent};
use crate::machine::Vm;
use crate::memory::GuestMemory;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use devices::virtio::block::Block;
use devices::virtio::console::Console;
use devices::virtio::mmio::{Device, SIZE};
use devices::virtio::net::{FRAME, Net, Wire};
use devices::virtio::overlay::Overlay;
use devices::virtio::{Broken, Memory, Outside};

impl Memory for GuestMemory<'_> {
    fn holds(&self, address: u64, length: u64) -> bool {
        GuestMemory::holds(self, address, length)
    }
    fn read(&self, address: u64, out: &mut [u8]) -> Result<(), Outside> {
        GuestMemory::read(self, address, out).map_err(|_| Outside)
    }
    fn write(&self, address: u64, bytes: &[u8]) -> Result<(), Outside> {
        GuestMemory::write(self, address, bytes).map_err(|_| Outside)
    }
}

/// Another port of the switch.
pub struct Peer<'a> {
    /// Its address.
    pub mac: [u8; 6],
    /// Frames to it.
    pub to: Ring<'a>,
    /// Frames from it.
    pub from: Ring<'a>,
    /// What wakes its monitor.
    pub wake: u64,
}

/// A port of a switch: frames go straight into the rings of those they are for.
///
/// A frame for one port goes to that port alone, one for a group to all, any other nowhere. What does
/// not carry its sender's address is dropped, at both ends.
pub struct Port<'a> {
    mac: [u8; 6],
    peers: Vec<Peer<'a>>,
    /// The peer that is asked first for the next frame, so that each gets its turn.
    turn: usize,
    /// Peers to wake.
    wakes: Vec<u64>,
}

impl<'a> Port<'a> {
    /// A port; frames from the guest's earlier life are forgotten.
    pub fn new(mac: [u8; 6], peers: Vec<Peer<'a>>) -> Self {
        peers.iter().for_each(|peer| peer.from.forget());
        Self { mac, peers, turn: 0, wakes: Vec::new() }
    }
}

/// The group bit of an Ethernet address.
const GROUP: u8 = 1;

/// Where a frame goes to and comes from.
fn ends(frame: &[u8]) -> Option<(&[u8; 6], &[u8; 6])> {
    let (to, rest) = frame.split_first_chunk()?;
    Some((to, rest.first_chunk()?))
}

impl Wire for Port<'_> {
    fn send(&mut self, frame: &[u8]) {
        let Some((to, _)) = ends(frame).filter(|(_, from)| **from == self.mac) else { return };
        let group = to.first().is_some_and(|byte| byte & GROUP != 0);
        for peer in self.peers.iter().filter(|peer| group || peer.mac == *to) {
            if peer.to.send(frame) == Sent::First && !self.wakes.contains(&peer.wake) {
                self.wakes.push(peer.wake);
            }
        }
    }

    fn has_frame(&mut self) -> bool {
        self.peers.iter().any(|peer| peer.from.has_frame())
    }

    fn receive(&mut self, frame: &mut [u8; FRAME]) -> Option<usize> {
        let count = self.peers.len();
        for step in 0..count {
            let at = (self.turn + step) % count;
            let Some(peer) = self.peers.get(at) else { continue };
            let Some(size) = peer.from.receive(frame) else { continue };
            self.turn = at + 1;
            let told = frame.get(..size).and_then(ends);
            if told.is_some_and(|(_, from)| *from == peer.mac) {
                return Some(size);
            }
        }
        None
    }
}

/// A device by its kind.
pub enum Kind<'a> {
    /// A disk.
    Disk(Device<Block<Overlay<GuestMemory<'a>>>>),
    /// A network device.
    Net(Device<Net<Port<'a>>>),
    /// A console.
    Console(Device<Console>),
}

/// The same call on any kind.
macro_rules! each {
    ($kind:expr, $device:ident => $call:expr) => {
        match $kind {
            Kind::Disk($device) => $call,
            Kind::Net($device) => $call,
            Kind::Console($device) => $call,
        }
    };
}

/// A device at its place.
pub struct Place<'a> {
    /// Its name, for the log.
    pub name: String,
    /// Guest-physical address of its registers.
    pub address: u64,
    /// Its pin of the I/O APIC.
    pub line: u8,
    /// What it is.
    pub kind: Kind<'a>,
    /// The level of its wire as last driven.
    level: bool,
    /// The log has been told that it is broken, and that its store is full.
    said: (bool, bool),
}

impl<'a> Place<'a> {
    /// A device after reset.
    pub fn new(name: &str, address: u64, line: u8, kind: Kind<'a>) -> Self {
        Self { name: name.into(), address, line, kind, level: false, said: (false, false) }
    }

    /// What the log should hear, each once in the guest's life.
    fn news(&mut self, broken: Option<Broken>) -> Option<String> {
        let (name, at) = (&self.name, self.address);
        if let Some(broken) = broken
            && !core::mem::replace(&mut self.said.0, true)
        {
            return Some(format!("{name} at {at:#x}: {broken}; it needs a reset"));
        }
        if let Kind::Disk(disk) = &mut self.kind
            && disk.model().failures() > 0
            && !core::mem::replace(&mut self.said.1, true)
        {
            return Some(format!("{name} at {at:#x}: no room for more changes; writes fail"));
        }
        None
    }
}

/// All devices of a guest.
#[derive(Default)]
pub struct Bus<'a> {
    places: Vec<Place<'a>>,
    due: bool,
    wakes: Vec<u64>,
}

impl<'a> Bus<'a> {
    /// With these devices.
    pub fn new(places: Vec<Place<'a>>) -> Self {
        Self { places, due: false, wakes: Vec::new() }
    }

    /// Where its devices are, for the guest's tables: addresses and pins.
    pub fn resources(&self) -> Vec<(u64, u8)> {
        self.places.iter().map(|place| (place.address, place.line)).collect()
    }

    /// The guest reads device memory; nothing if no device is there.
    pub fn read(&self, address: u64, size: u8) -> Option<u64> {
        let place = self.places.iter().find(|place| offset(place, address).is_some())?;
        let offset = offset(place, address)?;
        Some(each!(&place.kind, device => device.read(offset, size)))
    }

    /// Frames may have come.
    pub fn arrived(&mut self) {
        let has_frame = |place: &mut Place| match &mut place.kind {
            Kind::Net(net) => net.model().wire().has_frame(),
            Kind::Disk(_) | Kind::Console(_) => false,
        };
        self.due |= self.places.iter_mut().any(has_frame);
    }

    /// Whether [`Vm::serve_virtio`] has something to do.
    pub fn due(&self) -> bool {
        self.due
    }

    /// Whether [`Bus::take_wakes`] has something.
    pub fn has_wakes(&self) -> bool {
        !self.wakes.is_empty()
    }

    /// Other monitors to wake: what their semaphores are called here.
    pub fn take_wakes(&mut self) -> Vec<u64> {
        core::mem::take(&mut self.wakes)
    }

    /// Whether a console has bytes for the user.
    pub fn has_output(&self) -> bool {
        let sent = |place: &Place| matches!(&place.kind, Kind::Console(console) if console.peek().has_output());
        self.places.iter().any(sent)
    }

    /// As after power-on, on a new board, but disks keep what was written.
    pub fn reset(&mut self) {
        self.due = false;
        for place in &mut self.places {
            each!(&mut place.kind, device => device.reset());
            (place.level, place.said) = (false, (false, false));
        }
    }
}

fn offset(place: &Place, address: u64) -> Option<u64> {
    address.checked_sub(place.address).filter(|offset| *offset < SIZE)
}

impl Vm<'_> {
    /// The guest writes device memory; false if no virtio device is there.
    pub fn write_virtio(&mut self, address: u64, size: u8, value: u64) -> bool {
        let places = &mut self.virtio.places;
        let Some(index) = places.iter().position(|place| offset(place, address).is_some()) else {
            return false;
        };
        let Some(place) = places.get_mut(index) else { return false };
        let offset = address - place.address;
        let kicked = each!(&mut place.kind, device => device.write(offset, size, value));
        self.settle_virtio(index, kicked);
        true
    }

    /// Bytes are typed for the guest: its console gets them once its driver is ready, else its serial
    /// port. Returns how many were taken; offer the rest again later.
    pub fn receive(&mut self, bytes: &[u8]) -> usize {
        let ready = |place: &Place| matches!(&place.kind, Kind::Console(console) if console.runs());
        let Some(index) = self.virtio.places.iter().position(ready) else {
            return self.board.receive(bytes);
        };
        let Some(place) = self.virtio.places.get_mut(index) else { return 0 };
        let Kind::Console(console) = &mut place.kind else { return 0 };
        let taken = console.model().receive(bytes);
        if taken > 0 {
            self.settle_virtio(index, true);
        }
        taken
    }

    /// Adds what the guest has sent over its serial port, or else over its consoles, to `output`, which is empty.
    pub fn move_output(&mut self, output: &mut Vec<u8>) {
        self.board.move_output(output);
        for index in 0..self.virtio.places.len() {
            let place = self.virtio.places.get_mut(index).filter(|_| output.is_empty());
            let Some(Kind::Console(console)) = place.map(|place| &mut place.kind) else { continue };
            output.extend(console.model().take_output());
            if !output.is_empty() {
                // There is room again for what waited in its ring.
                self.settle_virtio(index, true);
            }
        }
    }

    /// Goes on with what kicks left over, and with frames that have come.
    pub fn serve_virtio(&mut self) {
        if !core::mem::take(&mut self.virtio.due) {
            return;
        }
        for index in 0..self.virtio.places.len() {
            self.settle_virtio(index, true);
        }
    }

    /// Carries a device's wire to the board, after its work if there may be some.
    fn settle_virtio(&mut self, index: usize, serve: bool) {
        let bus = &mut self.virtio;
        let Some(place) = bus.places.get_mut(index) else { return };
        if serve {
            let broken = each!(&mut place.kind, device => device.serve(&self.memory));
            bus.due |= each!(&place.kind, device => device.more());
            if let Kind::Net(net) = &mut place.kind {
                bus.wakes.append(&mut net.model().wire().wakes);
            }
            self.messages.extend(place.news(broken));
        }
        let level = each!(&place.kind, device => device.irq());
        if core::mem::replace(&mut place.level, level) != level {
            self.board.drive(place.line, level);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frames::RING;
    use core::sync::atomic::AtomicU64;

    const A: [u8; 6] = [2, 0, 0, 0, 0, 1];
    const B: [u8; 6] = [2, 0, 0, 0, 0, 2];
    const C: [u8; 6] = [2, 0, 0, 0, 0, 3];

    fn frame(to: [u8; 6], from: [u8; 6]) -> Vec<u8> {
        [&to[..], &from, &[8, 0], &[7; 46]].concat()
    }

    /// Three ports in one switch, over six rings.
    fn ports(words: &[AtomicU64]) -> [Port<'_>; 3] {
        let rings: Vec<Ring> =
            words.chunks(RING as usize / 8).map(|words| Ring::new(words).unwrap()).collect();
        let ring = |from: usize, to: usize| rings[from * 3 + to];
        let macs = [A, B, C];
        [0, 1, 2].map(|me| {
            let others = (0..3).filter(|other| *other != me);
            let peer = |other: usize| Peer {
                mac: macs[other],
                to: ring(me, other),
                from: ring(other, me),
                wake: 100 + other as u64,
            };
            Port::new(macs[me], others.map(peer).collect())
        })
    }

    fn words() -> Vec<AtomicU64> {
        (0..9 * RING / 8).map(|_| AtomicU64::new(0)).collect()
    }

    const DISK: u64 = 0xfed0_0000;

    /// A guest with a disk of one block, over a store in which none may change.
    fn with_disk<'a>(ram: &'a [AtomicU64], disk: &'a [AtomicU64]) -> Vm<'a> {
        let (image, store) = disk.split_at(512);
        let overlay = Overlay::new(GuestMemory::new(image), 4096, GuestMemory::new(store));
        let kind = Kind::Disk(Device::new(Block::new(overlay, "disk")));
        let mut vm = crate::exits::tests::vm(ram);
        vm.virtio = Bus::new(vec![Place::new("disk", DISK, 16, kind)]);
        vm
    }

    /// What a driver writes until its queue at 0x1000 is ready; the rings are empty.
    fn start(vm: &mut Vm) {
        vm.memory.write(0x1000, &[0; 0x1000]).unwrap();
        let words = [(0x70, 0), (0x70, 3), (0x24, 1), (0x20, 1), (0x70, 11), (0x30, 0), (0x38, 16)];
        let rings = [(0x80, 0x1000), (0x90, 0x1400), (0xa0, 0x1800), (0x44, 1), (0x70, 15)];
        for (offset, value) in words.into_iter().chain(rings) {
            assert!(vm.write_virtio(DISK + offset, 4, value));
        }
    }

    #[test]
    fn a_broken_ring_is_said_once_in_a_life() {
        let (ram, disk) = (crate::exits::tests::ram(), words());
        let mut vm = with_disk(&ram, &disk);
        let said =
            "disk at 0xfed00000: the ring offers more than it has room for; it needs a reset";
        for round in 0..3 {
            start(&mut vm);
            vm.memory.write_number(0x1402, 2, 0xffff).unwrap();
            assert!(vm.write_virtio(DISK + 0x50, 4, 0));
            assert_eq!(vm.virtio.read(DISK + 0x70, 4), Some(79), "DEVICE_NEEDS_RESET");
            let messages = core::mem::take(&mut vm.messages);
            assert_eq!(messages, if round == 0 { vec![said] } else { Vec::new() });
        }
        vm.virtio.reset();
        start(&mut vm);
        vm.memory.write_number(0x1402, 2, 0xffff).unwrap();
        vm.write_virtio(DISK + 0x50, 4, 0);
        assert_eq!(vm.messages, [said]);
        assert!(!vm.write_virtio(DISK - 1, 4, 0) && !vm.write_virtio(DISK + SIZE, 4, 0));
        assert_eq!(vm.virtio.read(DISK + SIZE, 4), None);
    }

    #[test]
    fn a_disk_without_room_for_changes_says_so_once() {
        let (ram, disk) = (crate::exits::tests::ram(), words());
        // The map takes a page; no slot follows.
        let mut vm = with_disk(&ram, &disk[..1024]);
        start(&mut vm);
        // A write of one sector: header at 0x3000, data there too, status at 0x4000.
        vm.memory.write_number(0x3000, 8, 1).unwrap();
        for (at, address, length, flags, next) in
            [(0, 0x3000_u64, 16_u64, 1_u64, 1_u64), (1, 0x3000, 512, 1, 2), (2, 0x4000, 1, 2, 0)]
        {
            vm.memory.write_number(0x1000 + 16 * at, 8, address).unwrap();
            let rest = length | flags << 32 | next << 48;
            vm.memory.write_number(0x1008 + 16 * at, 8, rest).unwrap();
        }
        for index in 1..4 {
            vm.memory.write_number(0x1402, 2, index).unwrap();
            vm.write_virtio(DISK + 0x50, 4, 0);
            assert_eq!(vm.memory.read_number(0x4000, 1), Ok(1), "an I/O error");
        }
        let said = "disk at 0xfed00000: no room for more changes; writes fail";
        assert_eq!(vm.messages, [said]);
        assert_eq!(vm.virtio.read(DISK + 0x60, 4), Some(1), "the driver is interrupted");
    }

    #[test]
    fn a_frame_goes_where_its_address_says() {
        let words = words();
        let [mut a, mut b, mut c] = ports(&words);
        let mut out = [0; FRAME];
        a.send(&frame(B, A));
        assert_eq!((b.receive(&mut out), c.has_frame(), a.has_frame()), (Some(60), false, false));
        assert_eq!(a.wakes, [101]);
        a.send(&frame([0xff; 6], A));
        assert_eq!((b.receive(&mut out), c.receive(&mut out)), (Some(60), Some(60)));
        // To nobody, from somebody else, and too short.
        for lost in [frame([2, 0, 0, 0, 0, 9], A), frame(B, C), vec![2; 11]] {
            a.send(&lost);
            assert!(!b.has_frame() && !c.has_frame());
        }
    }

    #[test]
    fn a_monitor_that_lies_about_its_address_is_not_heard() {
        let words = words();
        let [a, mut b, _c] = ports(&words);
        let mut out = [0; FRAME];
        a.peers[0].to.send(&frame(B, C));
        assert!(b.has_frame());
        assert_eq!(b.receive(&mut out), None);
        assert!(!b.has_frame());
    }

    #[test]
    fn who_does_not_take_frames_loses_them_and_stops_nobody() {
        let words = words();
        let [mut a, mut b, mut c] = ports(&words);
        let mut out = [0; FRAME];
        for _ in 0..100 {
            a.send(&frame([0xff; 6], A));
            assert_eq!(c.receive(&mut out), Some(60));
        }
        let mut kept = 0;
        while b.receive(&mut out).is_some() {
            kept += 1;
        }
        assert_eq!(kept, crate::frames::SLOTS);
        // Both senders are heard in turn.
        for _ in 0..3 {
            a.send(&frame(B, A));
            c.send(&frame(B, C));
        }
        let heard: Vec<u8> = (0..6).map(|_| (b.receive(&mut out), out[11]).1).collect();
        assert_eq!(heard.iter().filter(|last| **last == 1).count(), 3);
        assert!(heard.windows(2).all(|pair| pair[0] != pair[1]), "{heard:?}");
        // A new life of B hears nothing old.
        a.send(&frame(B, A));
        let [_, mut again, _] = ports(&words);
        assert_eq!(again.receive(&mut out), None);
    }
}
