//! Stories about several small guests side by side, managed from the prompt.

use crate::stories::{BOOT, DIED, Line, Load, REFUSED, Story};

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
