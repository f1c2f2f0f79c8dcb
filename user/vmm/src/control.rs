//! What the root task and a monitor agree on: addresses, selectors and the control page.
//!
//! The root task makes a domain per guest, maps the things below into it, and starts one thread
//! at the monitor's entry. A monitor has nothing else: no port, no other memory, no other
//! capability. The addresses lie between the program and the room that `rt` hands out.

/// Where the control page lies (read only).
pub const CONTROL: u64 = 0x2_0000_0000;
/// Where the stream from the guest's serial line lies; the status word counts the virtual processors
/// that execute at the moment.
pub const GUEST_OUT: u64 = CONTROL + 0x1000;
/// Where the stream to the guest's serial line lies; the status word answers the [`Order`].
pub const GUEST_IN: u64 = CONTROL + 0x2000;
/// Where the monitor's own messages go; the status word tells the guest's end ([`End`]).
pub const MESSAGES: u64 = CONTROL + 0x3000;
/// Where the monitor tells of itself ([`crate::status`]).
pub const STATUS: u64 = CONTROL + 0x4000;
/// Where the order for virtual devices lies (read only), see [`crate::orders`].
pub const DEVICES: u64 = CONTROL + 0x5000;
/// Where the monitor puts its guest's text screen when it is asked ([`crate::screen`]).
pub const SCREEN: u64 = CONTROL + 0x6000;
/// Where the order for regions besides RAM lies (read only), see [`crate::regions`].
pub const REGIONS: u64 = CONTROL + 0x7000;
/// Where the kernel image lies (read only).
pub const KERNEL: u64 = 0x3_0000_0000;
/// Where the initrd lies (read only).
pub const INITRD: u64 = 0x4_0000_0000;
/// Where the monitor's extra heap lies.
pub const HEAP: u64 = 0x6_0000_0000;
/// Where disk images, their stores and the rings of switches lie, as the order for devices says.
pub const BACKING: core::ops::Range<u64> = 0x6_8000_0000..0x7_8000_0000;
/// Where the guest's regions besides RAM lie, as the order for them says.
pub const BESIDES: core::ops::Range<u64> = BACKING.end..RAM;
/// Where the guest's RAM lies, 1 GiB aligned so that large pages can be used.
pub const RAM: u64 = 0x8_0000_0000;

/// Bytes at [`HEAP`] for so many virtual processors: a stack each and one for their portals' server, and what all share.
/// With the program itself a monitor of one processor has at most 2 MiB (story `linux_memory_qemu`).
pub fn heap_size(vcpus: u32) -> u64 {
    (256 << 10) + u64::from(vcpus) * (256 << 10)
}

/// Events of the monitor's first thread: exceptions, start-up, recall.
pub const SEL_EVENTS: u64 = 0;
/// The monitor's own domain, with the right to create.
pub const SEL_PD: u64 = 32;
/// Up when something was put into [`GUEST_OUT`] or [`MESSAGES`].
pub const SEL_WAKE_ROOT: u64 = 35;
/// Up when something was put into [`GUEST_IN`], or the [`Order`] changed.
pub const SEL_WAKE_MONITOR: u64 = 36;
/// First of the semaphores that wake the monitors of a switch's other ports, [`SEL_FREE`] - this many.
pub const SEL_PEERS: u64 = 64;
/// First selector the monitor may use as it likes.
pub const SEL_FREE: u64 = SEL_PEERS + (crate::orders::DEVICES * crate::orders::PEERS) as u64;

/// Longest command line, with room for the page's other fields.
pub const COMMAND_LINE: usize = 2047;
/// Longest name of a boot module.
pub const MODULE_NAME: usize = 31;
/// Most modules besides the kernel, all behind each other from [`INITRD`] on, each on a page of its own.
pub const MODULES: usize = 8;
/// Longest guest name.
pub const NAME: usize = 15;
/// Most virtual processors.
pub const VCPUS: usize = 64;

const MAGIC: u64 = u64::from_le_bytes(*b"HemaVMM1");

/// How a guest ended: the status word of [`MESSAGES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It runs, or has not begun.
    Running,
    /// It switched itself off.
    PoweredOff,
    /// It asked for a reset that could not be carried out.
    Reset,
    /// The monitor stopped it and has said why.
    Stopped,
    /// A thread of the monitor faulted or panicked.
    Crashed,
}

impl End {
    /// The status word.
    pub fn word(self) -> u64 {
        match self {
            End::Running => 0,
            End::PoweredOff => 1,
            End::Reset => 2,
            End::Stopped => 3,
            End::Crashed => 4,
        }
    }

    /// From the status word; unknown words mean stopped.
    pub fn from_word(word: u64) -> Self {
        match word {
            0 => End::Running,
            1 => End::PoweredOff,
            2 => End::Reset,
            4 => End::Crashed,
            _ => End::Stopped,
        }
    }
}

/// The word of the control page that changes when the root task wants to know of the monitor's threads.
pub const QUESTION_WORD: usize = 510;
/// The word of the control page that holds the present [`Order`]; the rest of the page stays as it is.
pub const ORDER_WORD: usize = 511;

/// What the root task wants of the guest now. The monitor answers with the same word in the status of
/// [`GUEST_IN`] once all virtual processors do it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Let it run.
    Run,
    /// Hold it.
    Hold,
    /// Hold it for good: after its answer no thread of the monitor runs any more, so that its memory can be taken away
    /// without a fault.
    End,
}

impl Order {
    /// The word of the control page.
    pub fn word(self) -> u64 {
        match self {
            Order::Run => 0,
            Order::Hold => 1,
            Order::End => 2,
        }
    }

    /// From the word; unknown ones hold the guest.
    pub fn from_word(word: u64) -> Self {
        match word {
            0 => Order::Run,
            2 => Order::End,
            _ => Order::Hold,
        }
    }
}

/// How the kernel image is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Boot {
    /// A bzImage, by the 64-bit protocol.
    Linux,
    /// Raw bytes at this guest-physical address, entered there in 32-bit mode.
    Flat(u64),
    /// By the multiboot protocol, version 1.
    Multiboot,
}

/// What happens at memory and ports nobody claims.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unclaimed {
    /// Reads give ones, writes are dropped.
    Ones,
    /// The guest is stopped.
    Stop,
}

/// A module besides the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Module {
    name: [u8; MODULE_NAME + 1],
    /// Bytes; 0 for none.
    pub size: u64,
}

impl Module {
    /// A module; nothing if the name is too long.
    pub fn new(name: &str, size: u64) -> Option<Self> {
        let mut module = Self { name: [0; MODULE_NAME + 1], size };
        if name.len() > MODULE_NAME {
            return None;
        }
        module.name.get_mut(..name.len())?.copy_from_slice(name.as_bytes());
        Some(module)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        text(&self.name)
    }
}

/// The order for one guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Control {
    name: [u8; 16],
    command_line: [u8; COMMAND_LINE + 1],
    /// Virtual processors, 1 to [`VCPUS`].
    pub vcpus: u32,
    /// The machine's processors; virtual processor i runs on processor i modulo this.
    pub cpus: u32,
    /// Those of them that virtual processors run on, bit by bit, in turn; 0 for all.
    pub affinity: u64,
    /// Priority of the virtual processors' threads.
    pub priority: u8,
    /// Their time slice in microseconds.
    pub slice_us: u32,
    /// Processor of the monitor's first thread.
    pub home_cpu: u32,
    /// Bytes of guest RAM from address 0, at [`RAM`].
    pub memory: u64,
    /// Bytes of guest RAM above the PCI hole, behind the others.
    pub high_memory: u64,
    /// How to start.
    pub boot: Boot,
    /// Policy for holes.
    pub unclaimed: Unclaimed,
    /// Bytes of the kernel image.
    pub kernel_size: u64,
    /// What comes with the kernel, an initrd first.
    pub modules: [Module; MODULES],
    /// TSC frequency in kHz.
    pub tsc_khz: u32,
    /// HIP flags, to know the vendor of the virtualization.
    pub hip_flags: u32,
    /// The HIP's secondary execution controls: low forced, high allowed.
    pub secondary_controls: u64,
    /// After so many seconds without output the guest is reported; 0 for never.
    pub silent_s: u32,
    /// Seconds since 1970 at start, 0 if unknown.
    pub wall_clock: u64,
}

impl Control {
    /// An order with this name and command line, everything else 0; too long text is refused.
    pub fn new(name: &str, command_line: &str) -> Option<Self> {
        let mut control = Self {
            name: [0; 16],
            command_line: [0; COMMAND_LINE + 1],
            vcpus: 1,
            cpus: 1,
            affinity: 0,
            priority: 5,
            slice_us: 10_000,
            home_cpu: 0,
            memory: 0,
            high_memory: 0,
            boot: Boot::Linux,
            unclaimed: Unclaimed::Ones,
            kernel_size: 0,
            modules: [Module::default(); MODULES],
            tsc_khz: 0,
            hip_flags: 0,
            secondary_controls: 0,
            silent_s: 0,
            wall_clock: 0,
        };
        if name.len() > NAME || command_line.len() > COMMAND_LINE {
            return None;
        }
        control.name.get_mut(..name.len())?.copy_from_slice(name.as_bytes());
        let room = control.command_line.get_mut(..command_line.len())?;
        room.copy_from_slice(command_line.as_bytes());
        Some(control)
    }

    /// The processor on which a virtual processor runs: those it may have in turn, from the home processor on.
    pub fn cpu_of(&self, vcpu: u32) -> u16 {
        let mut order = turns(self.cpus, self.home_cpu, self.affinity);
        order.nth(vcpu as usize).unwrap_or(0)
    }

    /// The guest's name.
    pub fn name(&self) -> &str {
        text(&self.name)
    }

    /// The command line.
    pub fn command_line(&self) -> &str {
        text(&self.command_line)
    }

    /// As the words of the page.
    pub fn encode(&self) -> [u64; 512] {
        let (kind, address) = match self.boot {
            Boot::Linux => (0, 0),
            Boot::Flat(address) => (1, address),
            Boot::Multiboot => (2, 0),
        };
        let head = [
            MAGIC,
            u64::from(self.vcpus),
            u64::from(self.cpus),
            u64::from(self.home_cpu),
            self.memory,
            self.high_memory,
            kind,
            address,
            u64::from(self.unclaimed == Unclaimed::Stop),
            self.kernel_size,
            u64::from(self.tsc_khz),
            u64::from(self.hip_flags),
            self.secondary_controls,
            u64::from(self.silent_s),
            self.wall_clock,
            self.affinity,
            u64::from(self.priority),
            u64::from(self.slice_us),
        ];
        let word = |chunk: &[u8]| {
            let mut word = [0u8; 8];
            for (to, from) in word.iter_mut().zip(chunk) {
                *to = *from;
            }
            u64::from_le_bytes(word)
        };
        let text = self.name.chunks(8).chain(self.command_line.chunks(8)).map(word);
        let modules = self.modules.iter().flat_map(|module| {
            module.name.chunks(8).map(word).chain(core::iter::once(module.size))
        });
        let mut page = [0u64; 512];
        for (to, from) in page.iter_mut().zip(head.into_iter().chain(text).chain(modules)) {
            *to = from;
        }
        page
    }

    /// From the words of the page; nothing if they are no order.
    pub fn decode(page: &[u64; 512]) -> Option<Self> {
        let mut words = page.iter().copied();
        let mut next = || words.next().unwrap_or(0);
        if next() != MAGIC {
            return None;
        }
        let mut control = Self::new("", "")?;
        control.vcpus = u32::try_from(next()).ok().filter(|n| (1..=VCPUS as u32).contains(n))?;
        control.cpus = u32::try_from(next()).ok().filter(|n| *n > 0)?;
        control.home_cpu = u32::try_from(next()).ok()?;
        control.memory = next();
        control.high_memory = next();
        let kind = next();
        let address = next();
        control.boot = match kind {
            0 => Boot::Linux,
            1 => Boot::Flat(address),
            2 => Boot::Multiboot,
            _ => return None,
        };
        control.unclaimed = if next() == 0 { Unclaimed::Ones } else { Unclaimed::Stop };
        control.kernel_size = next();
        control.tsc_khz = u32::try_from(next()).ok()?;
        control.hip_flags = u32::try_from(next()).ok()?;
        control.secondary_controls = next();
        control.silent_s = u32::try_from(next()).ok()?;
        control.wall_clock = next();
        control.affinity = next();
        control.priority = u8::try_from(next()).ok()?;
        control.slice_us = u32::try_from(next()).ok()?;
        for chunk in control.name.chunks_mut(8).chain(control.command_line.chunks_mut(8)) {
            for (to, from) in chunk.iter_mut().zip(next().to_le_bytes()) {
                *to = from;
            }
        }
        for module in &mut control.modules {
            for chunk in module.name.chunks_mut(8) {
                for (to, from) in chunk.iter_mut().zip(next().to_le_bytes()) {
                    *to = from;
                }
            }
            module.size = next();
        }
        Some(control)
    }
}

/// The processors of virtual processors 0, 1 and so on, without end: of the machine's `cpus` those in `affinity` (0 for
/// all) in turn, from `home_cpu` on. Each is below 64.
pub fn turns(cpus: u32, home_cpu: u32, affinity: u64) -> impl Iterator<Item = u16> {
    let all = u64::MAX >> (64 - cpus.clamp(1, 64));
    let mask = if affinity & all == 0 { all } else { affinity & all };
    let home = mask & u64::MAX.checked_shl(home_cpu).unwrap_or(0);
    bits(home).chain(bits(mask & !home)).cycle()
}

/// The bits of a mask that are set, rising.
fn bits(mask: u64) -> impl Iterator<Item = u16> + Clone {
    (0..64).filter(move |bit| mask >> bit & 1 != 0)
}

fn text(bytes: &[u8]) -> &str {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    core::str::from_utf8(bytes.get(..end).unwrap_or_default()).unwrap_or("?")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_arrives_as_it_was_sent() {
        let mut control = Control::new("linux", "console=ttyS0 mitigations=off").unwrap();
        control.vcpus = 3;
        control.cpus = 2;
        (control.memory, control.high_memory) = (256 << 20, 512 << 20);
        (control.affinity, control.priority, control.slice_us) = (5, 7, 1_000);
        control.boot = Boot::Flat(0x10_0000);
        control.unclaimed = Unclaimed::Stop;
        (control.tsc_khz, control.silent_s) = (2_000_000, 60);
        control.modules[0] = Module::new("initrd", 7).unwrap();
        control.modules[MODULES - 1] = Module::new(&"m".repeat(MODULE_NAME), u64::MAX).unwrap();
        assert!(Module::new(&"m".repeat(MODULE_NAME + 1), 1).is_none());
        let back = Control::decode(&control.encode()).unwrap();
        assert_eq!(back, control);
        assert_eq!((back.name(), back.command_line()), ("linux", "console=ttyS0 mitigations=off"));
    }

    #[test]
    fn orders_have_a_word_outside_the_description() {
        for order in [Order::Run, Order::Hold, Order::End] {
            assert_eq!(Order::from_word(order.word()), order);
        }
        let mut long = Control::new("a-name-of-15-ch", &"x".repeat(COMMAND_LINE)).unwrap();
        long.modules = [Module::new(&"m".repeat(MODULE_NAME), u64::MAX).unwrap(); MODULES];
        assert_eq!(long.encode()[QUESTION_WORD..], [0; 2]);
        assert_eq!(Order::from_word(7), Order::Hold);
    }

    #[test]
    fn virtual_processors_take_turns_on_those_they_may_have() {
        let mut control = Control::new("a", "").unwrap();
        let places = |control: &Control| [0, 1, 2, 3].map(|vcpu| control.cpu_of(vcpu));
        assert_eq!(places(&control), [0, 0, 0, 0]);
        control.cpus = 3;
        assert_eq!(places(&control), [0, 1, 2, 0]);
        control.home_cpu = 1;
        assert_eq!(places(&control), [1, 2, 0, 1]);
        control.affinity = 0b101;
        assert_eq!(places(&control), [2, 0, 2, 0]);
        // What the machine does not have is not asked for.
        control.affinity = 1 << 9;
        assert_eq!(places(&control), [1, 2, 0, 1]);
        control.cpus = 100;
        assert_eq!(places(&control), [9, 9, 9, 9]);
    }

    #[test]
    fn ends_have_a_word_each() {
        let ends = [End::Running, End::PoweredOff, End::Reset, End::Stopped, End::Crashed];
        for end in ends {
            assert_eq!(End::from_word(end.word()), end);
        }
        assert_eq!(End::from_word(99), End::Stopped);
    }

    #[test]
    fn a_wrong_page_is_no_order() {
        assert!(Control::decode(&[0; 512]).is_none());
        let mut words = Control::new("a", "").unwrap().encode();
        words[1] = 65;
        assert!(Control::decode(&words).is_none());
        assert!(Control::new("a-name-of-16-char", "").is_none());
        let long = "x".repeat(COMMAND_LINE);
        let control = Control::new("a", &long).unwrap();
        assert_eq!(Control::decode(&control.encode()).unwrap().command_line(), long);
    }
}
