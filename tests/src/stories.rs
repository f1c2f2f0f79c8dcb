//! The emulator suites as data: what is started, what it must say, how long it may take.

use crate::emulator::Engine;
use crate::serial::{Step, Ticks};
use crate::steady::{Shares, Steady};
use crate::stories_boot::{MASKS, MATRIX, SLEEPS};
use crate::stories_cells as cells;
use crate::stories_pair::PAIR_TICK;
use crate::stories_regions as regions;
use crate::stories_small as small;
use crate::stories_virtio as virtio;
use crate::warnings;
use std::time::Duration;

/// When a story is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tier {
    /// In every `cargo xtask test`.
    Quick,
    /// With `cargo xtask test --long` only.
    Long,
}

/// How the machine is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loader {
    /// A CD image with GRUB; multiboot 2 and the ELF64.
    Grub,
    /// The same image on UEFI firmware.
    Efi,
    /// A CD image with GRUB; multiboot 1 and the ELF32.
    Grub1,
    /// QEMU's own multiboot 1 loader and the ELF32.
    Direct,
}

/// What runs above the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// Our root task and nothing to do for it.
    Root,
    /// A test program as root task: the name of its ELF in `target/hematite`.
    Program(&'static str),
    /// The same; a second module tells it to do what takes long.
    LongProgram(&'static str),
    /// The same program by `cargo xtask run --root`, as somebody else's root task.
    RootOption(&'static str),
    /// Our root task, the monitor and a stock Linux guest.
    Linux,
    /// Our root task, the monitor and the guests of this manifest, which take the same kernel and initrd.
    Manifest(&'static str),
    /// A manifest of the gallery, as `cargo xtask run --manifest` starts it.
    Gallery(&'static str),
    /// Our root task, the monitor and the guest in `guests/small` with this command line.
    Small(&'static str),
    /// Our root task, this monitor and the guests of this manifest, all with the kernel in `guests/small`.
    Smalls {
        /// The monitor's name in `target/hematite`.
        monitor: &'static str,
        /// The manifest.
        manifest: &'static str,
    },
}

/// One line of a story.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line {
    /// The serial line says this, after the previous line.
    Says(&'static str),
    /// We type this and Enter.
    Type(&'static str),
    /// The serial line never says this.
    Never(&'static str),
    /// A line with this text comes, and it is the same each time the story asks for it.
    Same(&'static str),
    /// We type this at QEMU's monitor.
    Monitor(&'static str),
    /// QEMU says that the machine sleeps.
    Asleep,
    /// The VGA text screen, seen from outside, shows this.
    Screen(&'static str),
    /// The live page tables of so many processors, seen from outside, keep what the kernel promises.
    Tables(u32),
    /// A line with this text comes; its last number is remembered.
    Measures(&'static str),
    /// A line with this text comes, whose last number is at most this.
    LastAtMost(&'static str, u64),
    /// The last cycles cost what the first did.
    Steady(Steady),
    /// A guest goes on ticking as at the first such line.
    Ticks(Ticks),
    /// So have two of those numbers grown since the first time.
    Grew(Shares),
    /// The machine ends by itself; in QEMU a reboot is an end, too.
    Ends,
    /// A line with this text comes; the number behind it is at most this.
    AtMost(&'static str, u64),
    /// These lines, so many times.
    Times(u32, &'static [Line]),
}

impl Line {
    fn add_to(&self, steps: &mut Vec<Step>) {
        match self {
            Line::Says(text) => steps.push(Step::Expect((*text).to_string())),
            Line::Type(text) => steps.push(Step::Send(text.as_bytes().to_vec())),
            Line::Never(text) => steps.push(Step::Refuse((*text).to_string())),
            Line::Same(text) => steps.push(Step::Same((*text).to_string())),
            Line::Monitor(text) => steps.push(Step::Monitor((*text).to_string())),
            Line::Asleep => steps.push(Step::Asleep),
            Line::Screen(text) => steps.push(Step::Screen((*text).to_string())),
            Line::Tables(cpus) => steps.push(Step::Tables(*cpus)),
            Line::Measures(text) => steps.push(Step::Measure((*text).to_string())),
            Line::LastAtMost(text, most) => {
                steps.push(Step::LastAtMost((*text).to_string(), *most));
            }
            Line::Steady(steady) => steps.push(Step::Steady(*steady)),
            Line::Ticks(ticks) => steps.push(Step::Ticks(*ticks)),
            Line::Grew(shares) => steps.push(Step::Compare(*shares)),
            Line::AtMost(text, most) => steps.push(Step::AtMost((*text).to_string(), *most)),
            Line::Ends => steps.push(Step::End),
            Line::Times(count, lines) => {
                (0..*count).for_each(|_| lines.iter().for_each(|line| line.add_to(steps)));
            }
        }
    }
}

/// One emulator run and what must come of it.
#[derive(Clone, Copy, Debug)]
pub struct Story {
    /// Its name for `cargo xtask test NAME`.
    pub name: &'static str,
    /// When it is told.
    pub tier: Tier,
    /// Who plays the machine.
    pub engine: Engine,
    /// Number of processors.
    pub cpus: u32,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// Words of the kernel's command line.
    pub words: &'static str,
    /// The lowest physical address at which GRUB may put the kernel; 0 for the usual one.
    pub load_at: u32,
    /// Further arguments for QEMU; `@ROOT` stands for the checkout.
    pub qemu_args: &'static [&'static str],
    /// The emulator's processor model; empty for the usual one.
    pub cpu_model: &'static str,
    /// QEMU's deterministic clock.
    pub deterministic: bool,
    /// How the machine is loaded.
    pub loader: Loader,
    /// What runs.
    pub load: Load,
    /// What must come.
    pub lines: &'static [Line],
    /// Seconds until we give up, on two cores of their own.
    pub timeout_s: u64,
}

impl Story {
    /// The story's lines as steps for the serial line.
    #[must_use]
    pub fn steps(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        self.lines.iter().for_each(|line| line.add_to(&mut steps));
        steps
    }

    /// How long it may take.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        Duration::from_secs(self.timeout_s)
    }
}

/// How the kernel's last words begin.
pub(crate) const DIED: &str = "*** CPU ";
/// How it begins when it cannot start at all.
pub(crate) const REFUSED: &str = "*** Hematite cannot start";

/// What most boots have in common; each story changes what is its own.
pub(crate) const BOOT: Story = Story {
    name: "",
    tier: Tier::Quick,
    engine: Engine::Qemu,
    cpus: 1,
    memory_mib: 1024,
    words: "serial",
    load_at: 0,
    qemu_args: &[],
    cpu_model: "",
    deterministic: false,
    loader: Loader::Grub,
    load: Load::Root,
    lines: &[Line::Never(DIED), Line::Never(REFUSED), Line::Says("root: hello")],
    timeout_s: 180,
};

/// A boot in Bochs.
const BOCHS: Story = Story { engine: Engine::Bochs, timeout_s: 420, ..BOOT };

/// The conformance suite as root task: every call and refusal, threads, time, and guests of a few instructions
/// where the processor can run them.
const SUITE: Story = Story {
    deterministic: true,
    load: Load::Program("suite"),
    lines: &[
        Line::Never(DIED),
        Line::Never(REFUSED),
        Line::Never("FAIL"),
        Line::Says(" passed, 0 failed"),
    ],
    timeout_s: 300,
    ..BOOT
};

/// The conformance suite in Bochs.
const SUITE_BOCHS: Story =
    Story { engine: Engine::Bochs, deterministic: false, timeout_s: 600, ..SUITE };

/// The guest reaches its prompt, answers, has nothing to complain of, and powers off.
const LINUX: Story = Story {
    load: Load::Linux,
    lines: &[
        Line::Never(DIED),
        Line::Never(REFUSED),
        Line::Says("~ #"),
        Line::Type("uname -r"),
        Line::Says("6.1."),
        Line::Type(warnings::LIST),
        Line::Says(warnings::LISTED),
        Line::Type("poweroff -f"),
        Line::Says("powered off"),
    ],
    timeout_s: 300,
    ..BOOT
};

/// Takes the second processor off and brings it back; then work runs on it.
const OFF_AND_ON: &[Line] = &[
    Line::Type("echo 0 >online; echo off-$?; grep -c ^processor /proc/cpuinfo"),
    Line::Says("off-0\r\n1\r\n"),
    Line::Type("echo 1 >online; echo on-$?; grep -c ^processor /proc/cpuinfo"),
    Line::Says("on-0\r\n2\r\n"),
    Line::Type(
        "taskset 2 sh -c 'seq 20000 | md5sum; echo ran on $(cut -d\" \" -f39 /proc/self/stat)'",
    ),
    Line::Says("ran on 1"),
];

/// A processor of a guest goes off and comes back from inside, twice, and the kernel has nothing to complain of.
const OFFLINE: Story = Story {
    load: Load::Linux,
    lines: &[
        Line::Never(DIED),
        Line::Never(REFUSED),
        Line::Says("~ #"),
        Line::Type("cd /sys/devices/system/cpu/cpu1"),
        Line::Times(2, OFF_AND_ON),
        Line::Type(warnings::LIST),
        Line::Says(warnings::LISTED),
        Line::Type("poweroff -f"),
        Line::Says("powered off"),
    ],
    timeout_s: 300,
    ..BOOT
};

/// What a guest of one processor and 256 MiB costs besides its memory, once it runs: at most 2 MiB of its monitor's and
/// 512 KiB of the kernel's.
const MEMORY: Story = Story {
    load: Load::Linux,
    lines: &[
        Line::Never(DIED),
        Line::Never(REFUSED),
        Line::Says("~ #"),
        Line::Type("\x1d"),
        Line::Says("hematite> "),
        Line::Type("mem"),
        Line::AtMost("linux           262144 KiB, monitor ", 2048),
        Line::Type("mem"),
        Line::AtMost("KiB, kernel ", 512),
    ],
    ..BOOT
};

/// A guest is held, let go, stopped, taken apart and started again from the prompt.
const LIFE: Story = Story {
    load: Load::Linux,
    lines: &[
        Line::Never(DIED),
        Line::Never("has no handler"),
        Line::Never("killed a thread"),
        Line::Says("~ #"),
        Line::Type("while :; do :; done"),
        Line::Type("\x1d"),
        Line::Says("hematite> "),
        Line::Type("guest list"),
        Line::Says("RUNNING"),
        Line::Type("guest show linux"),
        Line::Says("KiB of kernel memory"),
        Line::Type("guest pause linux"),
        Line::Says("linux is PAUSED"),
        Line::Type("guest kick linux"),
        Line::Says("cannot kick: the guest is PAUSED"),
        Line::Type("guest resume linux"),
        Line::Says("linux is READY"),
        Line::Type("guest stop linux"),
        Line::Says("linux is RESET"),
        Line::Type("guest destroy linux"),
        Line::Says("linux is UNKNOWN"),
        Line::Type("guest start linux"),
        Line::Says("linux is READY"),
        Line::Type("guest console linux"),
        Line::Says("~ #"),
        Line::Type("poweroff -f"),
        Line::Says("powered off"),
        Line::Says("hematite> "),
        Line::Type("guest show linux"),
        Line::Says("HALTED   powered off"),
    ],
    timeout_s: 400,
    ..BOOT
};

/// Two Linux guests; one is taken apart and started again beside the other.
const PAIR: Story = Story {
    load: Load::Manifest("guests/pair.dts"),
    lines: &[
        Line::Never(DIED),
        Line::Says("guest right started"),
        Line::Says("hematite> "),
        Line::Type("guest console left"),
        Line::Says("~ #"),
        Line::Type("uname -r"),
        Line::Says("6.1."),
        Line::Type("\x1d"),
        Line::Says("hematite> "),
        Line::Type("guest stop left"),
        Line::Says("left is RESET"),
        Line::Type("guest destroy left"),
        Line::Says("left is UNKNOWN"),
        Line::Type("guest console right"),
        Line::Type("uname -r"),
        Line::Says("6.1."),
        Line::Type("\x1d"),
        Line::Says("hematite> "),
        Line::Type("guest start left"),
        Line::Says("left is READY"),
        Line::Type("guest console left"),
        Line::Says("~ #"),
    ],
    cpus: 2,
    timeout_s: 600,
    tier: Tier::Long,
    ..BOOT
};
/// What the C hello says.
const C_HELLO: &[Line] = &[
    Line::Never(DIED),
    Line::Never(REFUSED),
    Line::Says("hello from C on cpu 0, interface 10000, calls work"),
];

/// Every suite that runs in an emulator. The long Bochs runs come first, so that two emulators
/// side by side end at about the same time.
pub const STORIES: &[Story] = &[
    Story { name: "linux_bochs_1", engine: Engine::Bochs, timeout_s: 1500, ..LINUX },
    Story {
        name: "linux_bochs_2",
        engine: Engine::Bochs,
        cpus: 2,
        timeout_s: 1500,
        tier: Tier::Long,
        ..LINUX
    },
    Story { name: "linux_qemu_1", tier: Tier::Long, ..LINUX },
    Story { name: "linux_qemu_2", cpus: 2, ..LINUX },
    Story { name: "linux_offline_qemu", cpus: 2, ..OFFLINE },
    Story {
        name: "linux_offline_bochs",
        engine: Engine::Bochs,
        cpus: 2,
        timeout_s: 1500,
        tier: Tier::Long,
        ..OFFLINE
    },
    Story { name: "linux_memory_qemu", ..MEMORY },
    Story { name: "guest_pair_qemu", ..PAIR },
    Story { name: "virtio_console_qemu", ..virtio::CONSOLE },
    Story { name: "device_lives_qemu", ..virtio::LIVES },
    Story { name: "pair_tick_qemu", ..PAIR_TICK },
    Story { name: "pair_net_disk_qemu", ..virtio::PAIR_NET_DISK },
    Story { name: "pair_net_bochs", engine: Engine::Bochs, timeout_s: 5400, ..virtio::PAIR_NET },
    Story { name: "guest_life_qemu", cpus: 2, ..LIFE },
    // The conformance suite: plain, with SVM, and with VMX on processors of three generations.
    Story { name: "suite_bochs_skylake", ..SUITE_BOCHS },
    Story { name: "suite_bochs_icelake", cpu_model: "corei7_icelake_u", ..SUITE_BOCHS },
    Story { name: "suite_bochs_haswell", cpu_model: "corei7_haswell_4770", ..SUITE_BOCHS },
    Story { name: "suite_bochs_penryn", cpu_model: "core2_penryn_t9600", ..SUITE_BOCHS },
    Story { name: "suite_bochs_2", cpus: 2, tier: Tier::Long, ..SUITE_BOCHS },
    Story { name: "suite_bochs_4", cpus: 4, tier: Tier::Long, timeout_s: 1800, ..SUITE_BOCHS },
    Story { name: "suite_qemu_1", ..SUITE },
    Story { name: "suite_qemu_2", cpus: 2, ..SUITE },
    Story { name: "suite_qemu_4", cpus: 4, ..SUITE },
    // A thousand trees of domains built and torn down, alone and beside other processors.
    Story {
        name: "suite_trees_qemu",
        cpus: 2,
        tier: Tier::Long,
        load: Load::LongProgram("suite"),
        timeout_s: 1500,
        ..SUITE
    },
    Story {
        name: "suite_trees_bochs",
        cpus: 2,
        tier: Tier::Long,
        load: Load::LongProgram("suite"),
        timeout_s: 6000,
        ..SUITE_BOCHS
    },
    Story { name: "suite_plain_1", cpu_model: "max,-svm", ..SUITE },
    Story { name: "suite_plain_2", cpu_model: "max,-svm", cpus: 2, ..SUITE },
    Story { name: "suite_plain_4", cpu_model: "max,-svm", cpus: 4, ..SUITE },
    Story { name: "suite_plain_8", cpu_model: "max,-svm", cpus: 8, timeout_s: 420, ..SUITE },
    // The small guest; the slow engine runs all its tests in one boot.
    Story { name: "small_all_bochs", timeout_s: 420, ..small::ALL_BOCHS },
    Story {
        name: "small_all_bochs_icelake",
        cpu_model: "corei7_icelake_u",
        timeout_s: 420,
        ..small::ALL_BOCHS
    },
    Story {
        name: "small_all_bochs_haswell",
        cpu_model: "corei7_haswell_4770",
        timeout_s: 420,
        ..small::ALL_BOCHS
    },
    Story { name: "small_triple_bochs", engine: Engine::Bochs, timeout_s: 420, ..small::TRIPLE },
    Story { name: "small_triple_qemu", ..small::TRIPLE },
    Story { name: "small_cost_bochs", timeout_s: 420, ..small::COST_BOCHS },
    small::one!("small_hello_qemu", "hello"),
    small::one!("small_faults_qemu", "faults"),
    small::one!("small_unclaimed_qemu", "unclaimed"),
    small::one!("small_pit_qemu", "pit"),
    small::one!("small_lapic_qemu", "lapic"),
    small::one!("small_deadline_qemu", "deadline"),
    small::one!("small_spin_qemu", "spin"),
    Story { name: "gallery_hello_qemu", ..small::HELLO },
    Story { name: "gallery_hello_bochs", engine: Engine::Bochs, timeout_s: 420, ..small::HELLO },
    Story { name: "gallery_legacy_qemu", ..small::LEGACY },
    Story { name: "gallery_legacy_bochs", engine: Engine::Bochs, timeout_s: 420, ..small::LEGACY },
    Story { name: "gallery_multiboot_qemu", ..small::MULTIBOOT },
    Story { name: "gallery_memtest_qemu", ..small::MEMTEST },
    Story { name: "rings_qemu", ..cells::RINGS },
    Story { name: "probe_qemu", ..cells::PROBE },
    Story {
        name: "probe_bochs",
        engine: Engine::Bochs,
        tier: Tier::Long,
        timeout_s: 1800,
        ..cells::PROBE
    },
    Story { name: "gallery_shared_qemu", ..regions::SHARED },
    Story {
        name: "gallery_shared_bochs",
        engine: Engine::Bochs,
        timeout_s: 900,
        ..regions::SHARED
    },
    Story { name: "manifest_host_qemu", ..regions::HOST },
    Story { name: "passed_qemu", ..regions::PASSED },
    Story { name: "passed_bochs", engine: Engine::Bochs, timeout_s: 600, ..regions::PASSED },
    regions::refused!(
        "manifest_version_qemu",
        "version.dts",
        "/: compatible is \"hematite,manifest-v2\"; this is for \"hematite,manifest-v1\""
    ),
    regions::refused!(
        "manifest_ram_qemu",
        "taken-ram.dts",
        "/guests/one/aspace/window: host-address 0x20000000 to 0x20001000 is RAM"
    ),
    regions::refused!(
        "manifest_pci_qemu",
        "taken-pci.dts",
        "/guests/one/aspace/window: host-address 0xf0000000 to 0xfec00000 is the PCI function 00:"
    ),
    Story { name: "crash_monitor_qemu", ..cells::CRASH },
    Story { name: "cell_states_qemu", ..cells::STATES },
    Story { name: "cell_lives_qemu", ..cells::FEW_LIVES },
    Story { name: "cell_steady_qemu", ..cells::STEADY_LIVES },
    Story { name: "cell_linux_lives_qemu", ..cells::LINUX_LIVES },
    Story { name: "console_words_qemu", ..cells::WORDS },
    Story { name: "console_words_bochs", engine: Engine::Bochs, timeout_s: 600, ..cells::WORDS },
    Story { name: "console_reboot_qemu", ..cells::REBOOT },
    Story { name: "cell_shares_qemu", ..cells::SHARES },
    Story { name: "cell_dedicated_qemu", ..cells::DEDICATED },
    Story { name: "cell_silent_qemu", ..cells::SILENT },
    Story { name: "cell_pause_qemu", ..cells::PAUSE },
    Story { name: "cell_thousand_qemu", ..cells::THOUSAND_LIVES },
    Story { name: "boot_bochs_2", cpus: 2, timeout_s: 300, ..BOCHS },
    Story { name: "boot_bochs_1", ..BOCHS },
    Story { name: "boot_qemu_1", ..BOOT },
    Story { name: "boot_qemu_2", cpus: 2, ..BOOT },
    Story { name: "boot_qemu_4", cpus: 4, ..BOOT },
    Story { name: "boot_qemu_8", cpus: 8, timeout_s: 300, ..BOOT },
    // A root program that knows only abi/include/hematite.h.
    Story { name: "boot_c_hello", lines: C_HELLO, load: Load::Program("hello-c"), ..BOOT },
    Story { name: "boot_c_hello_bochs", lines: C_HELLO, load: Load::Program("hello-c"), ..BOCHS },
    // Root programs given with `--root`.
    Story { name: "root_suite_qemu", load: Load::RootOption("suite"), ..SUITE },
    Story { name: "root_suite_bochs", load: Load::RootOption("suite"), ..SUITE_BOCHS },
    Story { name: "root_hello_c", lines: C_HELLO, load: Load::RootOption("hello-c"), ..BOOT },
    Story {
        name: "root_hello_c_bochs",
        lines: C_HELLO,
        load: Load::RootOption("hello-c"),
        ..BOCHS
    },
    // Neither SVM nor VMX: a plain microkernel.
    Story { name: "boot_plain_1", cpu_model: "max,-svm", ..BOOT },
    Story {
        name: "boot_plain_refuses_guests",
        cpu_model: "max,-svm",
        load: Load::Linux,
        lines: &[Line::Never(DIED), Line::Says("guests need VMX or SVM")],
        ..BOOT
    },
    // Processor models in Bochs: the oldest has VMX without EPT, so no guests; the others have both.
    Story { name: "boot_bochs_penryn", cpu_model: "core2_penryn_t9600", ..BOCHS },
    Story {
        name: "boot_bochs_lynnfield",
        cpu_model: "corei5_lynnfield_750",
        tier: Tier::Long,
        ..BOCHS
    },
    Story {
        name: "boot_bochs_haswell",
        cpu_model: "corei7_haswell_4770",
        tier: Tier::Long,
        ..BOCHS
    },
    Story { name: "boot_bochs_icelake", cpu_model: "corei7_icelake_u", ..BOCHS },
    Story { name: "boot_plain_2", cpu_model: "max,-svm", cpus: 2, tier: Tier::Long, ..BOOT },
    Story { name: "boot_plain_4", cpu_model: "max,-svm", cpus: 4, tier: Tier::Long, ..BOOT },
    Story { name: "boot_plain_8", cpu_model: "max,-svm", cpus: 8, timeout_s: 300, ..BOOT },
    Story { name: "boot_qemu_direct", cpus: 2, loader: Loader::Direct, ..BOOT },
];

/// All stories: these, the table of boots, and guests that do without something,
/// and suspensions.
pub fn all() -> impl Iterator<Item = &'static Story> {
    STORIES.iter().chain(MATRIX).chain(MASKS).chain(SLEEPS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn names_are_unique_words() {
        let names: HashSet<_> = all().map(|story| story.name).collect();
        assert_eq!(names.len(), all().count());
        for name in names {
            assert!(!name.is_empty());
            assert!(
                name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
            );
        }
    }

    #[test]
    fn every_story_can_fail_and_can_be_started() {
        for story in all() {
            let waits = |line: &Line| matches!(line, Line::Says(_) | Line::Screen(_));
            assert!(story.lines.iter().any(waits), "{}", story.name);
            assert!(story.timeout_s > 0 && story.cpus > 0, "{}", story.name);
            let direct = story.loader == Loader::Direct;
            assert!(!direct || story.engine != Engine::Bochs, "{}: Bochs needs GRUB", story.name);
        }
    }
}
