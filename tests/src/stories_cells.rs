//! Stories about several small guests side by side, managed from the prompt.

use crate::steady::{Shares, Steady};
use crate::stories::{BOOT, DIED, Line, Load, REFUSED, Story, Tier};

/// Monitors that die in three ways beside a guest that ticks: each takes only its guest along, everything comes
/// back, and the guest can be started again.
pub(crate) const CRASH: Story = Story {
    load: Load::Smalls { monitor: "vmm-crash", manifest: "tests/manifests/crash.dts" },
    cpus: 2,
    lines: &[
        Line::Never(DIED),
        Line::Never(REFUSED),
        Line::Never("small: tick FAIL"),
        Line::Never("kept out of use"),
        Line::Says("hematite> "),
        Line::Type("guest start other"),
        Line::Says("other is READY"),
        Line::Type("mem"),
        Line::Same("KiB free for guests"),
        // A fault in the thread of a virtual processor.
        Line::Type("guest start fault"),
        Line::Says("thread stopped: #GP general protection"),
        Line::Says("vmm fault: its monitor crashed"),
        Line::Type("guest show fault"),
        Line::Says("HALTED   its monitor crashed"),
        Line::Type("mem"),
        Line::Same("KiB free in the kernel"),
        Line::Same("KiB free for guests"),
        // A panic.
        Line::Type("guest start panic"),
        Line::Says("the guest asked for it"),
        Line::Says("vmm panic: its monitor crashed"),
        Line::Type("guest show panic"),
        Line::Says("HALTED   its monitor crashed"),
        Line::Type("mem"),
        Line::Same("KiB free in the kernel"),
        Line::Same("KiB free for guests"),
        // A monitor that answers nobody.
        Line::Type("guest start hang"),
        Line::Says("hang is READY"),
        Line::Type("guest console hang"),
        Line::Says("small: hello"),
        Line::Type("\x1d"),
        Line::Says("hematite> "),
        Line::Type("guest pause hang"),
        Line::Says("the monitor does not answer within a second"),
        Line::Type("guest halt hang"),
        Line::Says("hang is HALTED"),
        Line::Type("mem"),
        Line::Same("KiB free in the kernel"),
        Line::Same("KiB free for guests"),
        // Once more the same guest.
        Line::Type("guest reset fault"),
        Line::Says("fault is RESET"),
        Line::Type("guest kick fault"),
        Line::Says("vmm fault: its monitor crashed"),
        Line::Type("mem"),
        Line::Same("KiB free in the kernel"),
        Line::Same("KiB free for guests"),
        Line::Type("guest console other"),
        Line::Says("small: tick"),
        Line::Type("\x1d"),
        Line::Says("hematite> "),
        // More ticks than can have been missed since.
        Line::Type("guest console other"),
        Line::Times(5, &[Line::Says("small: tick")]),
    ],
    ..BOOT
};

/// Moves that this guest in this state must refuse.
macro_rules! refused {
    ($guest:literal $state:literal: $($move:literal)*) => {
        Line::Times(1, &[$(
            Line::Type(concat!("guest ", $move, " ", $guest)),
            Line::Says(concat!($guest, ": cannot ", $move, ": the guest is ", $state, ";")),
        )*])
    };
}

/// A command that leads this guest to this state.
macro_rules! leads {
    ($command:literal $guest:literal to $state:literal) => {
        Line::Times(
            1,
            &[
                Line::Type(concat!("guest ", $command, " ", $guest)),
                Line::Says(concat!($guest, " is ", $state)),
            ],
        )
    };
}

/// A look at the guest until it has said its words, and back to the prompt.
macro_rules! begun {
    ($guest:literal) => {
        Line::Times(
            1,
            &[
                Line::Type(concat!("guest console ", $guest)),
                Line::Says("small: hello"),
                Line::Type("\x1d"),
                Line::Says("hematite> "),
            ],
        )
    };
}

/// All six states and seven moves at the real prompt: 30 refusals, which change nothing, and 12 moves.
pub(crate) const STATES: Story = Story {
    load: Load::Smalls { monitor: "vmm", manifest: "tests/manifests/states.dts" },
    cpus: 2,
    lines: &[
        Line::Never(DIED),
        Line::Never(REFUSED),
        Line::Never("has no handler"),
        Line::Never("killed a thread"),
        Line::Says("hematite> "),
        refused!("ready" "UNKNOWN": "kick" "pause" "resume" "halt" "reset" "destroy"),
        leads!("create" "ready" to "RESET"),
        refused!("ready" "RESET": "create" "pause" "resume" "halt" "reset"),
        leads!("destroy" "ready" to "UNKNOWN"),
        leads!("create" "ready" to "RESET"),
        Line::Type("guest kick ready"),
        Line::Says("cannot kick: no image is loaded"),
        leads!("load" "ready" to "loaded"),
        leads!("kick" "ready" to "READY"),
        begun!("ready"),
        refused!("ready" "READY": "create" "kick" "resume" "destroy"),
        leads!("pause" "ready" to "PAUSED"),
        refused!("ready" "PAUSED": "create" "kick" "pause" "halt" "destroy"),
        leads!("resume" "ready" to "READY"),
        leads!("pause" "ready" to "PAUSED"),
        leads!("reset" "ready" to "RESET"),
        leads!("kick" "ready" to "READY"),
        leads!("halt" "ready" to "HALTED"),
        refused!("ready" "HALTED": "create" "kick" "pause" "resume" "halt" "destroy"),
        leads!("reset" "ready" to "RESET"),
        leads!("kick" "ready" to "READY"),
        leads!("reset" "ready" to "RESET"),
        leads!("destroy" "ready" to "UNKNOWN"),
        leads!("start" "running" to "READY"),
        begun!("running"),
        refused!("running" "RUNNING": "create" "kick" "resume" "destroy"),
        leads!("pause" "running" to "PAUSED"),
        leads!("resume" "running" to "READY"),
        Line::Type("guest show running"),
        Line::Says("RUNNING"),
        Line::Type("ps"),
        Line::Says("OWNER           THREAD    STATE    CPU PRIO  SLICE us      TIME us"),
        Line::Says("root            console   RUNNING    0   20     10000"),
        Line::Says("running         monitor   waits      0   12     10000"),
        Line::Says("running         streams   READY      0   10     10000"),
        Line::Says("running         vCPU 0    RUNNING    1    7      3000"),
        Line::Type("exits running"),
        Line::Says("Io  "),
        Line::Says("all  "),
        Line::Type("irq"),
        Line::Says("CPU 1: "),
        leads!("halt" "running" to "HALTED"),
        leads!("reset" "running" to "RESET"),
        leads!("kick" "running" to "READY"),
        begun!("running"),
        Line::Type("guest show running"),
        Line::Says("RUNNING"),
        leads!("reset" "running" to "RESET"),
        leads!("destroy" "running" to "UNKNOWN"),
    ],
    timeout_s: 300,
    ..BOOT
};

/// One life of a small guest, to its first output, and memory after it.
const CYCLE: &[Line] = &[
    Line::Type("guest start one"),
    Line::Says("small: hello"),
    Line::Type("guest stop one; guest destroy one; mem"),
    Line::Says("one is UNKNOWN"),
    Line::Same("KiB free in the kernel"),
    Line::Same("KiB free for guests"),
];

/// What a life costs, in microseconds of each thread's time: of the deterministic clock, so 1000 instructions each.
const COSTS: Steady = Steady {
    counters: &["root            console"],
    fresh: &["one             monitor", "one             streams", "one             vCPU 0"],
    cycles: 10,
    percent: 10,
};

/// One life with a look at what it costs.
const MEASURED: &[Line] = &[
    Line::Type("ps; guest start one; ps"),
    Line::Measures(COSTS.counters[0]),
    Line::Measures(COSTS.counters[0]),
    Line::Says("small: hello"),
    Line::Type("ps; guest stop one; guest destroy one; ps; mem"),
    Line::Measures(COSTS.counters[0]),
    Line::Measures(COSTS.fresh[0]),
    Line::Measures(COSTS.fresh[1]),
    Line::Measures(COSTS.fresh[2]),
    Line::Measures(COSTS.counters[0]),
    Line::Same("KiB free in the kernel"),
    Line::Same("KiB free for guests"),
];

/// A few lives; what is free is the same after each.
pub(crate) const FEW_LIVES: Story = Story {
    load: Load::Smalls { monitor: "vmm", manifest: "tests/manifests/one.dts" },
    lines: &[
        Line::Never(DIED),
        Line::Never(REFUSED),
        Line::Never("kept out of use"),
        Line::Says("hematite> "),
        Line::Times(10, CYCLE),
    ],
    timeout_s: 300,
    ..BOOT
};

/// A few lives, of which the last cost what the first did.
pub(crate) const STEADY_LIVES: Story = Story {
    deterministic: true,
    lines: &[
        Line::Never(DIED),
        Line::Never(REFUSED),
        Line::Never("kept out of use"),
        Line::Says("hematite> "),
        Line::Times(1, CYCLE),
        Line::Times(6, MEASURED),
        Line::Steady(Steady { cycles: 3, ..COSTS }),
    ],
    ..FEW_LIVES
};

/// The same a thousand times.
pub(crate) const THOUSAND_LIVES: Story = Story {
    lines: &[
        Line::Never(DIED),
        Line::Never(REFUSED),
        Line::Never("kept out of use"),
        Line::Says("hematite> "),
        Line::Times(1, CYCLE),
        Line::Times(10, MEASURED),
        Line::Times(979, CYCLE),
        Line::Times(10, MEASURED),
        Line::Steady(COSTS),
    ],
    tier: Tier::Long,
    timeout_s: 7200,
    ..STEADY_LIVES
};

/// What a life of Linux costs the root task, and how many seconds the guest's own clock says that it took up to its first words:
/// both are instructions there.
const LINUX_ROOT: Steady = Steady { counters: COSTS.counters, fresh: &[], cycles: 10, percent: 10 };
const LINUX_UP: Steady = Steady { counters: &[], fresh: &["up for 1/100 s: "], ..LINUX_ROOT };

/// One life of Linux, to its first words, which say how long it took.
const LINUX_CYCLE: &[Line] = &[
    Line::Type("ps; guest start one; ps"),
    Line::Measures(LINUX_ROOT.counters[0]),
    Line::Measures(LINUX_ROOT.counters[0]),
    Line::Measures(LINUX_UP.fresh[0]),
    Line::Type("ps; guest stop one; guest destroy one; ps; mem"),
    Line::Measures(LINUX_ROOT.counters[0]),
    Line::Measures(LINUX_ROOT.counters[0]),
    Line::Same("KiB free in the kernel"),
    Line::Same("KiB free for guests"),
];

/// Fifty lives of Linux.
pub(crate) const LINUX_LIVES: Story = Story {
    load: Load::Manifest("tests/manifests/linux.dts"),
    lines: &[
        Line::Never(DIED),
        Line::Never(REFUSED),
        Line::Never("kept out of use"),
        Line::Says("hematite> "),
        // The first takes what stays: tables of the root task's own.
        Line::Times(51, LINUX_CYCLE),
        Line::Steady(LINUX_ROOT),
        Line::Steady(LINUX_UP),
    ],
    tier: Tier::Long,
    timeout_s: 7200,
    ..STEADY_LIVES
};

/// A guest is held for more than a second and let go: its clocks have run on, both alike, and another guest ticked
/// meanwhile.
pub(crate) const PAUSE: Story = Story {
    load: Load::Smalls { monitor: "vmm", manifest: "tests/manifests/pause.dts" },
    cpus: 2,
    lines: &[
        Line::Never(DIED),
        Line::Never(REFUSED),
        Line::Never("small: gap FAIL"),
        Line::Says("hematite> "),
        leads!("start" "gap" to "READY"),
        begun!("gap"),
        leads!("pause" "gap" to "PAUSED"),
        Line::Type("ps"),
        Line::Says("gap             vCPU 0    PAUSED"),
        leads!("start" "other" to "READY"),
        Line::Type("guest console other"),
        Line::Times(3, &[Line::Says("small: tick")]),
        Line::Type("\x1d"),
        Line::Says("hematite> "),
        leads!("resume" "gap" to "READY"),
        Line::Type("guest console gap"),
        Line::Says("small: a gap of "),
        Line::Says("small: gap ok"),
    ],
    ..BOOT
};

/// Every word of `help` that no other story types, and the machine's end.
pub(crate) const WORDS: Story = Story {
    load: Load::Smalls { monitor: "vmm", manifest: "tests/manifests/states.dts" },
    cpus: 2,
    lines: &[
        Line::Never(DIED),
        Line::Never(REFUSED),
        Line::Says("hematite> "),
        Line::Type("help"),
        Line::Says("log level [LEVEL]"),
        Line::Says("reboot "),
        Line::Type("fly"),
        Line::Says("fly: no such command; try help"),
        Line::Type("guest list"),
        Line::Says("ready           UNKNOWN"),
        Line::Says("running         UNKNOWN"),
        leads!("start" "ready" to "READY"),
        leads!("start" "running" to "READY"),
        begun!("running"),
        Line::Type("cpu"),
        Line::Says("CPU 0: package 0, core 0, thread 0, ACPI id 0, LAPIC id 0; ready"),
        Line::Says("CPU 1: package "),
        Line::Says("; running"),
        Line::Type("guest log running"),
        Line::Says("small: hello"),
        Line::Type("mem"),
        Line::Says("KiB free for guests"),
        Line::Type("log level"),
        Line::Says("log level is all"),
        Line::Type("log level loud"),
        Line::Says("log level loud: it is quiet, warnings or all"),
        Line::Type("log level quiet"),
        Line::Says("log level is quiet"),
        leads!("stop" "ready" to "RESET"),
        leads!("destroy" "ready" to "UNKNOWN"),
        Line::Type("poweroff"),
        Line::Ends,
    ],
    timeout_s: 300,
    ..BOOT
};

/// The machine starts again, which ends QEMU; and a guest that ended is told of although its monitor's lines were not
/// shown.
pub(crate) const REBOOT: Story = Story {
    load: Load::Small("triple"),
    lines: &[
        Line::Never(DIED),
        Line::Never(REFUSED),
        Line::Says("linux stopped"),
        Line::Says("hematite> "),
        Line::Type("log level quiet"),
        Line::Says("log level is quiet"),
        Line::Type("guest reset linux; guest kick linux"),
        Line::Says("linux is RESET"),
        Line::Says("linux is READY"),
        Line::Says("small: hello"),
        Line::Type("guest show linux"),
        Line::Says("HALTED   stopped by its monitor"),
        Line::Says("what its monitor said:"),
        Line::Says("  | stopped: triple fault (vCPU 0, RIP 0x2"),
        Line::Says("  | linux stopped"),
        Line::Type("reboot"),
        Line::Ends,
    ],
    ..BOOT
};

/// A guest touches all that a machine could have and gets what the documents say, while another ticks on.
pub(crate) const PROBE: Story = Story {
    load: Load::Smalls { monitor: "vmm", manifest: "tests/manifests/probe.dts" },
    cpus: 2,
    lines: &[
        Line::Never(DIED),
        Line::Never(REFUSED),
        Line::Never("small: tick FAIL"),
        Line::Never(" FAIL "),
        Line::Says("hematite> "),
        leads!("start" "other" to "READY"),
        leads!("start" "probe" to "READY"),
        Line::Type("guest console probe"),
        Line::Says("small: cpuid ok"),
        Line::Says("small: memory ok"),
        Line::Says("small: ports ok"),
        Line::Says("small: registers ok"),
        Line::Says("probe powered off"),
        Line::Says("hematite> "),
        // The neighbour has ticked all the time, and goes on.
        Line::Type("guest console other"),
        Line::Says("small: tick 5"),
        Line::Times(2, &[Line::Says("small: tick")]),
    ],
    timeout_s: 900,
    ..BOOT
};

/// A guest drives its virtio devices with rings that make no sense: they want a reset, and work after it. Its monitor, the
/// machine and a neighbour in the same switch go on.
pub(crate) const RINGS: Story = Story {
    load: Load::Smalls { monitor: "vmm", manifest: "tests/manifests/rings.dts" },
    cpus: 2,
    lines: &[
        Line::Never(DIED),
        Line::Never(REFUSED),
        Line::Never(" FAIL "),
        Line::Never("stopped"),
        Line::Says("hematite> "),
        leads!("start" "other" to "READY"),
        leads!("start" "hostile" to "READY"),
        Line::Type("guest console hostile"),
        Line::Says("small: device 2 at 0xfed00000 has had 1000 random rings"),
        Line::Says("small: device 1 at 0xfed01000 has had 1000 random rings"),
        Line::Says("small: device 1 at 0xfed02000 has had 1000 random rings"),
        Line::Says("small: device 3 at 0xfed03000 has had 1000 random rings"),
        Line::Says("small: rings ok"),
        Line::Says("small: tick 2"),
        Line::Type("\x1d"),
        Line::Says("hematite> "),
        Line::Type("guest console other"),
        Line::Says("small: tick 5"),
        Line::Times(2, &[Line::Says("small: tick")]),
    ],
    timeout_s: 300,
    ..BOOT
};

/// The rows of `ps` about two busy guests.
const BUSY: [&str; 2] = ["one             vCPU 0", "three           vCPU 0"];

/// Two busy virtual processors with slices of 10 and 30 ms share a processor 1 to 3, over ten seconds that a third guest
/// ticks.
pub(crate) const SHARES: Story = Story {
    load: Load::Smalls { monitor: "vmm", manifest: "tests/manifests/shares.dts" },
    deterministic: true,
    lines: &[
        Line::Never(DIED),
        Line::Never(REFUSED),
        Line::Says("hematite> "),
        leads!("start" "ticks" to "READY"),
        leads!("start" "one" to "READY"),
        leads!("start" "three" to "READY"),
        Line::Type("ps"),
        Line::Measures(BUSY[0]),
        Line::Measures(BUSY[1]),
        Line::Type("guest console ticks"),
        Line::Times(11, &[Line::Says("small: tick")]),
        Line::Type("\x1d"),
        Line::Says("hematite> "),
        Line::Type("ps"),
        Line::Measures(BUSY[0]),
        Line::Measures(BUSY[1]),
        Line::Grew(Shares { rows: BUSY, times: 3, percent: 5, least: 10_000_000 }),
    ],
    tier: Tier::Long,
    timeout_s: 900,
    ..BOOT
};

/// A processor for one guest alone: refused while another is there, kept from others, given back. A guest that computes there
/// does not leave for its monitor.
pub(crate) const DEDICATED: Story = Story {
    load: Load::Smalls { monitor: "vmm", manifest: "tests/manifests/dedicated.dts" },
    cpus: 2,
    lines: &[
        Line::Never(DIED),
        Line::Never(REFUSED),
        Line::Says("hematite> "),
        leads!("start" "there" to "READY"),
        Line::Type("guest create own"),
        Line::Says("own: CPU 1 has virtual processors of another guest"),
        Line::Type("guest create home"),
        Line::Says("home: CPU 0 is the console's and cannot be dedicated"),
        Line::Type("guest show own"),
        Line::Says("own             UNKNOWN"),
        leads!("stop" "there" to "RESET"),
        leads!("destroy" "there" to "UNKNOWN"),
        leads!("start" "own" to "READY"),
        begun!("own"),
        Line::Type("guest create there"),
        Line::Says("there: CPU 1 is dedicated to another guest"),
        // Who names no processor gets the others.
        leads!("start" "any" to "READY"),
        Line::Type("cpu"),
        Line::Says("LAPIC id 0; any"),
        Line::Says("LAPIC id 1; own"),
        Line::Type("exits own"),
        Line::Says("all  "),
        Line::Type("guest console any"),
        Line::Times(4, &[Line::Says("small: tick")]),
        Line::Type("\x1d"),
        Line::Says("hematite> "),
        Line::Type("exits own"),
        Line::Says("  0/s"),
        Line::Says("all  "),
        leads!("stop" "own" to "RESET"),
        leads!("destroy" "own" to "UNKNOWN"),
        leads!("start" "there" to "READY"),
        Line::Type("cpu"),
        Line::Says("LAPIC id 1; there"),
    ],
    ..BOOT
};

/// A guest that says nothing is reported, where it computes and where it sleeps; one that speaks is not.
pub(crate) const SILENT: Story = Story {
    load: Load::Smalls { monitor: "vmm", manifest: "tests/manifests/silent.dts" },
    cpus: 2,
    lines: &[
        Line::Never(DIED),
        Line::Never(REFUSED),
        Line::Never("vmm ticks: silent"),
        Line::Says("hematite> "),
        leads!("start" "ticks" to "READY"),
        leads!("start" "count" to "READY"),
        Line::Says("vmm count: silent for 2 s:"),
        Line::Says("vmm count:   vCPU 0 runs at RIP 0x2"),
        Line::Says("pending: no interrupt"),
        leads!("start" "doze" to "READY"),
        Line::Says("vmm doze: silent for 2 s:"),
        Line::Says("vmm doze:   vCPU 0 sleeps at RIP 0x2"),
        Line::Says("Hlt 0x2"),
        // Once for each silence, and anew after a pause.
        leads!("pause" "doze" to "PAUSED"),
        leads!("resume" "doze" to "READY"),
        Line::Says("vmm doze: silent for 2 s:"),
    ],
    ..BOOT
};
