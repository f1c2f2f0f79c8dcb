//! Which guest's virtual processors live where, and which processors belong to one guest alone.
//!
//! Some are kept for the root task from the beginning. Any other processor is for all guests until one that wants it for itself is created there, and again after that one is destroyed.
use alloc::format;
use alloc::string::String;
use vmm::control::turns;

/// The machine's processors.
#[derive(Clone, Debug)]
pub struct Cpus {
    count: u32,
    /// The console's.
    home: u32,
    /// Guests on each.
    guests: [u16; 64],
    /// Those that belong to one guest, bit by bit.
    dedicated: u64,
    /// Those that no guest may have, bit by bit.
    kept: u64,
}

/// Where a guest lives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Processors with virtual processors of it, bit by bit.
    pub cpus: u64,
    /// Processors it may have, bit by bit; 0 for all.
    pub affinity: u64,
    /// They are its own.
    pub dedicated: bool,
}

impl Cpus {
    /// A machine of `count` processors, 1 to 64, with the console on `home`; no guest may have those in `kept`.
    pub fn new(count: u32, home: u32, kept: u64) -> Self {
        Self { count: count.clamp(1, 64), home, guests: [0; 64], dedicated: 0, kept }
    }

    /// Whether no guest may have a processor.
    pub fn keeps(&self, cpu: u16) -> bool {
        self.kept.checked_shr(cpu.into()).unwrap_or(0) & 1 != 0
    }

    /// Finds a place for a guest with so many virtual processors on some of the processors in `affinity`, 0 for all, which it
    /// wants for itself alone or not.
    ///
    /// # Errors
    /// Why there is none; nothing has changed.
    pub fn settle(&mut self, vcpus: u32, affinity: u64, dedicated: bool) -> Result<Place, String> {
        let all = u64::MAX >> (64 - self.count) & !self.kept;
        let kept = if all == 0 { self.kept } else { affinity & self.kept };
        if let Some(cpu) = kept.checked_ilog2() {
            return Err(format!("CPU {cpu} is kept for the root task"));
        }
        let wanted = if affinity & all == 0 { all } else { affinity & all };
        let taken = wanted & self.dedicated;
        if taken != 0 && (dedicated || affinity != 0 || taken == wanted) {
            let cpu = taken.trailing_zeros();
            return Err(format!("CPU {cpu} is dedicated to another guest"));
        }
        if dedicated && wanted >> self.home & 1 != 0 {
            return Err(format!("CPU {} is the console's and cannot be dedicated", self.home));
        }
        let busy = (0..64).find(|cpu| wanted >> cpu & 1 != 0 && self.on(*cpu) > 0);
        if let (true, Some(cpu)) = (dedicated, busy) {
            return Err(format!("CPU {cpu} has virtual processors of another guest"));
        }
        let affinity = wanted & !self.dedicated;
        let cpus = turns(self.count, self.home, affinity);
        let cpus = cpus.take(vcpus as usize).fold(0_u64, |places, cpu| places | 1 << cpu);
        self.guests.iter_mut().enumerate().for_each(|(cpu, guests)| {
            *guests += (cpus >> cpu & 1) as u16;
        });
        if dedicated {
            self.dedicated |= wanted;
        }
        Ok(Place { cpus, affinity, dedicated })
    }

    /// A guest leaves its place.
    pub fn leave(&mut self, place: Place) {
        self.guests.iter_mut().enumerate().for_each(|(cpu, guests)| {
            *guests = guests.saturating_sub((place.cpus >> cpu & 1) as u16);
        });
        if place.dedicated {
            self.dedicated &= !place.affinity;
        }
    }

    fn on(&self, cpu: usize) -> u16 {
        self.guests.get(cpu).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dedicated_processor_is_nobody_elses_until_it_comes_back() {
        let mut cpus = Cpus::new(4, 0, 0);
        let common = cpus.settle(2, 0, false).unwrap();
        assert_eq!((common.cpus, common.affinity), (0b11, 0b1111));
        let refused = |cpus: &mut Cpus, affinity, dedicated| {
            let before = cpus.clone();
            let why = cpus.settle(1, affinity, dedicated).unwrap_err();
            assert_eq!((cpus.guests, cpus.dedicated), (before.guests, before.dedicated));
            why
        };
        assert_eq!(refused(&mut cpus, 0b10, true), "CPU 1 has virtual processors of another guest");
        assert_eq!(
            refused(&mut cpus, 0b01, true),
            "CPU 0 is the console's and cannot be dedicated"
        );
        let own = cpus.settle(2, 0b1100, true).unwrap();
        assert_eq!((own.cpus, own.affinity, own.dedicated), (0b1100, 0b1100, true));
        for dedicated in [false, true] {
            assert_eq!(refused(&mut cpus, 0b100, dedicated), "CPU 2 is dedicated to another guest");
        }
        // Who has not named processors gets the others.
        let other = cpus.settle(4, 0, false).unwrap();
        assert_eq!((other.cpus, other.affinity), (0b11, 0b11));
        cpus.leave(own);
        assert_eq!(cpus.settle(4, 0, false).unwrap().cpus, 0b1111);
        assert_eq!(
            refused(&mut cpus, 0b1000, true),
            "CPU 3 has virtual processors of another guest"
        );
    }

    #[test]
    fn a_processor_that_is_kept_is_nobodys() {
        let mut cpus = Cpus::new(3, 0, 0b10);
        assert!(cpus.keeps(1) && !cpus.keeps(0) && !cpus.keeps(64));
        let any = cpus.settle(4, 0, false).unwrap();
        assert_eq!((any.cpus, any.affinity), (0b101, 0b101));
        for dedicated in [false, true] {
            let why = "CPU 1 is kept for the root task";
            assert_eq!(cpus.settle(1, 0b10, dedicated).unwrap_err(), why);
        }
        let none = Cpus::new(2, 0, 0b11).settle(1, 0, false);
        assert_eq!(none.unwrap_err(), "CPU 1 is kept for the root task");
    }

    #[test]
    fn all_who_leave_leave_nothing() {
        let mut cpus = Cpus::new(2, 0, 0);
        for _ in 0..100 {
            for place in [cpus.settle(3, 0, false), cpus.settle(1, 0, false)] {
                cpus.leave(place.unwrap());
            }
            let own = cpus.settle(1, 2, true).unwrap();
            assert_eq!(cpus.settle(2, 0, false).map(|place| cpus.leave(place)), Ok(()));
            cpus.leave(own);
        }
        assert_eq!((cpus.guests, cpus.dedicated), ([0; 64], 0));
    }
}
