//! The next call: aimed at an answer, or any words.

use abi::args::{
    AssignPci, CallPortal, CreateEc, CreateKp, CreatePd, CreatePt, CreateSc, CreateSm, CreateVcpu,
    EcCtrl, IrqCtrl, KpCtrl, MachineCtrl, PdCtrl, PtCtrl, Revoke, ScCtrl, SmCtrl, VcpuCtrl, Words,
};
use abi::cap::USER_TOP;
use abi::crd::ItemMeta;
use abi::{Call, Crd, Mtd, Status};
use arch::{GuestEvent, GuestVendor, Machine};

use super::{CPUS, DEATH, ECHO, Fixed, Storm, ZONE, ZONE_ORDER};
use crate::world::local;

const ZONE_SIZE: u64 = 1 << ZONE_ORDER;
/// A selector that never holds anything.
const NOTHING: u64 = 0x300_0000;

impl Storm {
    fn zone(&mut self) -> u64 {
        ZONE + self.dice.below(ZONE_SIZE)
    }

    /// A free selector of the zone; what was there is revoked.
    fn free(&mut self, actor: usize) -> u64 {
        let selector = self.zone();
        let pd = self.actors[actor].pd.clone();
        if self.world.permissions(&pd, selector) != 0 {
            let crd = Crd::objects(selector, 0, 0x1f);
            let words = Revoke { own: true, remote: false, crd, pd: 0 }.encode();
            self.must(actor, words);
        }
        selector
    }

    fn must(&mut self, actor: usize, words: Words) {
        let status = self.call(actor, words);
        assert_eq!(status, Some(Status::Success), "{words:x?}");
    }

    /// One call, or the few that a rare answer needs.
    pub(super) fn one(&mut self) {
        let actor = self.dice.below(CPUS as u64) as usize;
        let words = match self.dice.below(8) {
            0..4 => {
                let (call, status) = self.rarest();
                self.aim(actor, call, status)
            }
            4..7 => {
                let number = self.dice.below(super::REACHABLE.len() as u64) as usize;
                let call = super::REACHABLE[number].0;
                self.aim(actor, call, Status::Success)
            }
            _ => Some(self.any(actor)),
        };
        let Some(words) = words else { return };
        let back = self.call(actor, words);
        assert!(back.is_some(), "{words:x?} by {actor} never came back");
        Machine::set_vendor(GuestVendor::Vmx);
    }

    /// The words that should get this answer; `None` if they were said already or this thread cannot get it.
    fn aim(&mut self, actor: usize, call: u8, status: Status) -> Option<Words> {
        let base = self.actors[actor].base;
        let at = |what: Fixed| base + what as u64;
        let own = at(Fixed::Own);
        let owner = if status == Status::Oom { at(Fixed::Poor) } else { own };
        let wrong = at(Fixed::Empty);
        let bad_cap = status == Status::BadCap;
        let Ok(call) = Call::from_word(call.into()) else {
            let number = [14, 21 + self.dice.below(43), 70 + self.dice.below(186)];
            return Some([number[self.dice.below(3) as usize], self.dice.roll(), 0, 0, 0]);
        };
        let sel = match call {
            Call::CreatePd
            | Call::CreateEc
            | Call::CreateSc
            | Call::CreatePt
            | Call::CreateSm
            | Call::CreateKp
            | Call::CreateVcpu => {
                if bad_cap && self.dice.below(2) == 0 {
                    at(Fixed::Full)
                } else {
                    self.free(actor)
                }
            }
            _ => 0,
        };
        let owner = if bad_cap { wrong } else { owner };
        let far_cpu = (CPUS as u64 + self.dice.below(64)) as u16;
        let any_cpu = self.dice.below(CPUS as u64) as u16;
        let roll = self.dice.roll();
        Some(match call {
            Call::Call => {
                let portal = match status {
                    Status::BadCap => at(Fixed::Servant),
                    Status::BadCpu => at(Fixed::Elsewhere),
                    Status::Timeout => at(Fixed::Grave),
                    Status::Abort => return self.abort(actor),
                    _ => at(Fixed::Portal),
                };
                CallPortal { portal, nonblocking: false }.encode()
            }
            Call::Reply => {
                if bad_cap {
                    self.mistake.set(Some(Status::Success));
                }
                let words = CallPortal { portal: at(Fixed::Portal), nonblocking: false }.encode();
                self.must(actor, words);
                if let Some(answer) = self.mistake.take() {
                    self.note([1, 0, 0, 0, 0], answer);
                }
                return None;
            }
            Call::CreatePd => {
                let crd = if roll & 3 == 0 { Crd::objects(ZONE, 3, 0x1f) } else { Crd::NULL };
                CreatePd { sel, passthrough: roll & 4 != 0, parent: owner, crd }.encode()
            }
            Call::CreateEc => {
                let cpu = if status == Status::BadCpu { far_cpu } else { any_cpu };
                let utcb = match (status, roll & 1) {
                    (Status::BadPar, _) => USER_TOP,
                    (_, 0) => 0x4000_0000 + (roll >> 8 & 0xff) * 4096,
                    _ => 0,
                };
                CreateEc { global: roll & 2 != 0, cpu, utcb, ..local(sel, owner) }.encode()
            }
            Call::CreateSc => {
                let ec = if bad_cap { at(Fixed::Servant) } else { at(Fixed::Thread) };
                let priority = if status == Status::BadPar { 0 } else { 1 };
                let owner = if bad_cap { own } else { owner };
                CreateSc { sel, owner, ec, priority, quantum_us: 10 }.encode()
            }
            Call::CreatePt => {
                let ec = if bad_cap { at(Fixed::Thread) } else { at(Fixed::Servant) };
                let owner = if bad_cap { own } else { owner };
                CreatePt { sel, owner, ec, mtd: Mtd::NONE, entry: ECHO }.encode()
            }
            Call::CreateSm => CreateSm { sel, owner, count: roll & 3 }.encode(),
            Call::CreateKp => CreateKp { sel, owner }.encode(),
            Call::CreateVcpu => {
                if status == Status::BadFtr {
                    Machine::set_vendor(GuestVendor::None);
                }
                let state = if bad_cap { wrong } else { at(Fixed::Kp0) };
                let cpu = if status == Status::BadCpu { far_cpu } else { any_cpu };
                let parent = if bad_cap { own } else { owner };
                let (vlapic, fpu) = (at(Fixed::Kp1), at(Fixed::Kp0));
                CreateVcpu { sel, cpu, parent, state, vlapic, fpu }.encode()
            }
            Call::Revoke => {
                let (crd, remote, pd) = match status {
                    Status::BadCap => (Crd::NULL, true, wrong),
                    Status::BadPar => (Crd::memory(USER_TOP >> 12, 0, 7), false, 0),
                    // A part of a large page: splitting it takes a table.
                    Status::Oom => {
                        (Crd::memory(0x20_0000 + roll % 512, 0, 7), true, at(Fixed::Poor))
                    }
                    _ => (Crd::objects(self.zone(), (roll & 3) as u8, roll as u8 >> 3), false, 0),
                };
                Revoke { own: roll & 16 != 0 || remote, remote, crd, pd }.encode()
            }
            Call::PdCtrl => return Some(self.pd_ctrl(actor, status)),
            Call::EcCtrl => match status {
                Status::BadPar => [9 | 1 << 8, 0, 0, 0, 0],
                Status::BadCap => EcCtrl::Recall { ec: wrong }.encode(),
                _ => EcCtrl::Recall { ec: at(Fixed::Thread) }.encode(),
            },
            Call::ScCtrl => ScCtrl { sc: if bad_cap { wrong } else { at(Fixed::Time) } }.encode(),
            Call::PtCtrl => {
                PtCtrl { pt: if bad_cap { wrong } else { at(Fixed::Portal) }, id: roll }.encode()
            }
            Call::SmCtrl => {
                let sm = if bad_cap { at(Fixed::Kp0) } else { at(Fixed::Full) };
                match (status, roll & 1) {
                    (Status::Timeout, _) => {
                        let deadline = 1 + (roll >> 8) % (1 << 25);
                        SmCtrl::Down { sm: wrong, zero: roll & 2 != 0, deadline }.encode()
                    }
                    (_, 0) => SmCtrl::Up { sm }.encode(),
                    _ => SmCtrl::Down { sm, zero: false, deadline: 0 }.encode(),
                }
            }
            Call::AssignPci => {
                AssignPci { pd: if bad_cap { wrong } else { own }, config: 0, hint: 0 }.encode()
            }
            Call::MachineCtrl => match status {
                Status::BadPar => MachineCtrl::Suspend { slp_typ_a: 5, slp_typ_b: 5 }.encode(),
                _ => {
                    let size = (roll & 0x3fff) as u32;
                    MachineCtrl::UpdateMicrocode { size, physical: roll >> 46 }.encode()
                }
            },
            Call::KpCtrl => {
                let address = 0x5000_0000;
                match (status, roll & 1) {
                    (Status::BadCap, _) => KpCtrl::Unmap { kp: wrong }.encode(),
                    (Status::BadPar, _) => {
                        KpCtrl::Map { kp: at(Fixed::Kp1), pd: own, address: 1 }.encode()
                    }
                    (Status::Oom, _) => {
                        KpCtrl::Map { kp: at(Fixed::Kp1), pd: owner, address }.encode()
                    }
                    (_, 0) => KpCtrl::Map { kp: at(Fixed::Kp2), pd: own, address }.encode(),
                    _ => KpCtrl::Unmap { kp: at(Fixed::Kp2) }.encode(),
                }
            }
            Call::IrqCtrl => {
                let vector = if status == Status::BadPar { 192 } else { (roll % 192) as u8 };
                let cpu = if status == Status::BadCpu { far_cpu } else { any_cpu };
                if status == Status::BadDev {
                    return Some(
                        IrqCtrl::AssignMsi { vector, cpu, device: 0x6000_0000_0000 }.encode(),
                    );
                }
                let kp = if bad_cap { NOTHING } else { at(Fixed::Kp2) };
                let sm = at(Fixed::Full);
                IrqCtrl::ConfigureVector { vector, cpu, sm, kp, bit: roll as u16 & 0x7fff }.encode()
            }
            Call::VcpuCtrl => match status {
                Status::BadPar => [20 | 2 << 8, 0, 0, 0, 0],
                Status::BadCap => VcpuCtrl::Poke { vcpu: wrong }.encode(),
                Status::BadCpu => VcpuCtrl::Run { vcpu: at(Fixed::There), mtd: Mtd::NONE }.encode(),
                Status::Busy => return self.busy(),
                _ if roll & 3 == 0 => VcpuCtrl::Poke { vcpu: at(Fixed::Here) }.encode(),
                _ => VcpuCtrl::Run { vcpu: at(Fixed::Here), mtd: Mtd::NONE }.encode(),
            },
            Call::QuotaGive => {
                let pd = match status {
                    Status::BadCap => wrong,
                    Status::BadPar => own,
                    _ => at(Fixed::Rich),
                };
                if status == Status::BadPar && actor == 2 {
                    return None;
                }
                [call.word(0, pd), u64::MAX, 0, 0, 0]
            }
            Call::QuotaRead => [call.word(0, if bad_cap { wrong } else { own }), 0, 0, 0, 0],
            _ => return None,
        })
    }

    fn pd_ctrl(&mut self, actor: usize, status: Status) -> Words {
        let base = self.actors[actor].base;
        let at = |what: Fixed| base + what as u64;
        let roll = self.dice.roll();
        let (from, to) = (self.zone(), self.zone());
        let order = (roll & 3) as u8;
        let perms = (roll >> 2) as u8 & 0x1f;
        let objects = |source, destination, from, to| {
            let meta = ItemMeta::DELEGATE.at(to);
            let crd = Crd::objects(from, order, perms);
            let window = Crd::objects(to, order, 0x1f);
            PdCtrl::Delegate { source, destination, crd, meta, window }.encode()
        };
        let own = at(Fixed::Own);
        match (status, roll >> 8 & 7) {
            (Status::BadCap, _) => objects(at(Fixed::Empty), own, from, to),
            (Status::BadPar, _) => PdCtrl::MapAccessPage { crd: Crd::memory(1, 0, 1) }.encode(),
            (Status::Oom, _) => {
                let (crd, window) =
                    (Crd::objects(at(Fixed::Full), 0, 3), Crd::objects(NOTHING, 0, 3));
                let meta = ItemMeta::DELEGATE.at(NOTHING);
                let destination = at(Fixed::Poor);
                PdCtrl::Delegate { source: own, destination, crd, meta, window }.encode()
            }
            (_, 0) => PdCtrl::Lookup { crd: Crd::objects(from, 0, 1) }.encode(),
            (_, 1) => PdCtrl::MapAccessPage { crd: Crd::memory(0xfee00 + roll % 4, 0, 3) }.encode(),
            (_, 2) => self.memory(actor, roll),
            (_, 3) => {
                let crd = Crd::ports(roll >> 16 & 0xff8, order, 1);
                let meta = ItemMeta::DELEGATE | ItemMeta::FROM_KERNEL | ItemMeta::GUEST;
                let destination = if roll & 1 << 40 == 0 { own } else { at(Fixed::Rich) };
                PdCtrl::Delegate { source: own, destination, crd, meta, window: crd }.encode()
            }
            (_, 4) => objects(own, at(Fixed::Rich), from, to),
            _ => objects(own, own, from, to),
        }
    }

    /// Memory from the kernel (or, in the child, from itself) into a domain, in a window of 32 MiB.
    fn memory(&mut self, actor: usize, roll: u64) -> Words {
        let base = self.actors[actor].base;
        let own = base + Fixed::Own as u64;
        let order = [0, 1, 4, 9][(roll >> 16 & 3) as usize];
        let place = |bits: u64| 0x8000 + (bits & 0x1fff);
        // Some of it is the kernel's own.
        let kernels = if roll & 1 << 52 == 0 { 0 } else { self.world.pool.range().0.0 - 0x9000 };
        let (source, target) = (place(roll >> 18) + kernels, place(roll >> 33));
        let guest = if roll & 1 << 50 == 0 { ItemMeta(0) } else { ItemMeta::GUEST };
        let meta = (ItemMeta::DELEGATE | ItemMeta::FROM_KERNEL | guest).at(target);
        let (crd, window) = (Crd::memory(source, order, 7), Crd::memory(target, order, 0x1f));
        let destination = if roll & 1 << 51 == 0 { own } else { base + Fixed::Rich as u64 };
        PdCtrl::Delegate { source: own, destination, crd, meta, window }.encode()
    }

    /// A servant dies under a call.
    fn abort(&mut self, actor: usize) -> Option<Words> {
        let own = self.actors[actor].base + Fixed::Own as u64;
        let ec = self.free(actor);
        let pt = self.free(actor);
        if ec == pt {
            return None;
        }
        self.must(
            actor,
            CreateEc { cpu: actor as u16, event_base: 0x5000, ..local(ec, own) }.encode(),
        );
        self.must(
            actor,
            CreatePt { sel: pt, owner: own, ec, mtd: Mtd::NONE, entry: DEATH }.encode(),
        );
        Some(CallPortal { portal: pt, nonblocking: false }.encode())
    }

    /// Another thread runs the same virtual CPU while it is in the guest.
    fn busy(&mut self) -> Option<Words> {
        let vcpu = self.actors[0].base + Fixed::Here as u64;
        let words = VcpuCtrl::Run { vcpu, mtd: Mtd::NONE }.encode();
        for _ in 0..32 {
            Machine::guest(|_| GuestEvent::Nothing);
        }
        self.actors[0].terminal.order(words);
        (0..4).for_each(|_| self.world.step(0));
        self.second.order(words);
        self.must(1, SmCtrl::Up { sm: super::SECOND + 3 }.encode());
        for _ in 0..100 {
            self.world.step(0);
            if let Some(back) = self.second.result() {
                self.note(words, crate::world::status_of(&back));
                self.check();
                break;
            }
        }
        Machine::drop_guests();
        let back = self.wait(0, words);
        assert_eq!(back, Some(Status::Success), "the first run");
        None
    }

    /// Any words, kept off the fixed objects and off what never returns.
    fn any(&mut self, actor: usize) -> Words {
        let base = self.actors[actor].base;
        let selector = |storm: &mut Self| match storm.dice.below(4) {
            0 => base + Fixed::Own as u64,
            1 => [NOTHING, 1 << 26, u64::MAX >> 12, 0x2_0000][storm.dice.below(4) as usize],
            _ => storm.zone(),
        };
        let numbers = [0_u64, 2, 3, 4, 5, 6, 8, 9, 10, 11, 13, 15, 16, 17, 18, 19, 20, 65];
        let number = numbers[self.dice.below(numbers.len() as u64) as usize];
        let (first, second, third) = (selector(self), selector(self), selector(self));
        let flags = self.dice.below(16);
        let [a, b] = [self.dice.roll() & 0xffff_ffff, self.dice.roll() >> 20];
        match number {
            // A thread in the zone must not take the place of one of ours, nor run for ever.
            3 => [3 | (flags & 9) << 8 | first << 12, second, a & 3 | b << 12, 0x7000, 0x5000],
            4 => [4 | first << 12, second, self.zone(), 1 | (a & 0xff) << 12, 0],
            5 => [5 | first << 12, second, self.zone(), a, ECHO],
            8 => self.pd_ctrl(actor, Status::Success),
            17 => [17 | flags << 8 | first << 12, second, (b & 0xfff) << 12, 0, 0],
            19 => [19 | first << 12, a & 3 | second << 12, third, third, self.zone()],
            _ => [number | flags << 8 | first << 12, second, third, a, b],
        }
    }
}
