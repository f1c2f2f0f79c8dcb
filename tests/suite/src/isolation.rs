//! Nothing of one thread or guest is seen by another: thread and thread, thread and guest, guest and guest.
//!
//! Each has registers of its own that follow from a number, and runs in turn on one processor. What a thread
//! finds after a call, and what a guest stores to its memory, must be its own.

use crate::registers::{Area, Crossing, WORDS, components, value, xcr0};
use crate::world::{PD, World};
use abi::TypedItem;
use abi::args::{SmCtrl, VcpuCtrl, VcpuRunExt};
use abi::cap::MEM_RWX;
use abi::crd::ItemMeta;
use abi::exit::ExitReason;
use abi::hip::{FLAG_SVM, FLAG_VMX};
use abi::utcb::{Segment, StatePage};
use core::sync::atomic::{AtomicUsize, Ordering};
use rt::memory::{Window, free_ram};
use rt::sync::Semaphore;
use rt::vcpu::Vcpu;
use rt::{Crd, Mtd, Status, calls, thread};

/// How often everybody has a turn.
const ROUNDS: usize = 6;
/// What the other thread found, 0 for nothing strange.
static STRANGE: AtomicUsize = AtomicUsize::new(0);

/// The family.
pub fn run(world: &mut World) {
    if components() == 0 {
        world.tally.skip("registers", "no XSAVE");
        return;
    }
    threads(world);
    if world.boot.hip.flags() & (FLAG_VMX | FLAG_SVM) == 0 {
        world.tally.skip("guests", "no virtualization");
        return;
    }
    let (first, second) = (Guest::new(world, 0), Guest::new(world, 1));
    match (first, second) {
        (Ok(first), Ok(second)) => guests(world, [first, second]),
        (Err(status), _) | (_, Err(status)) => {
            world.tally.equal("guests", Err(status), Ok(()));
        }
    }
}

/// Two threads of one processor in turn, each of which leaves its registers to a semaphore call.
fn threads(world: &mut World) {
    let (mine, other) = (world.semaphore(), Semaphore::new(0));
    let Ok(other) = other else {
        world.tally.equal("semaphore", other.map(|_| ()), Ok(()));
        return;
    };
    let theirs = other.selector();
    let down = |sm| SmCtrl::Down { sm, zero: false, deadline: 0 }.encode();
    let started = thread::spawn(world.boot.cpu, 1, move || {
        let mut crossing = Crossing::new(2);
        for _ in 0..ROUNDS {
            if let Some(offset) = crossing.make(down(theirs)) {
                STRANGE.store(offset.max(1), Ordering::Relaxed);
            }
            let _ = calls::sm_up(mine);
        }
    });
    world.tally.equal("another thread", started.map(|_| ()), Ok(()));
    let mut crossing = Crossing::new(1);
    let mut found = None;
    for _ in 0..ROUNDS {
        let _ = other.up();
        found = found.or(crossing.make(down(mine)));
    }
    world.tally.equal("a thread keeps its registers", found, None);
    world.tally.equal("so does the other", STRANGE.load(Ordering::Relaxed), 0);
}

/// Real mode; stores what the guest sees into its data page and halts.
const CODE: &[u8] = &[
    0x66, 0x83, 0xc8, 0xff, // or eax, -1
    0x66, 0x89, 0xc2, // mov edx, eax
    0x0f, 0xae, 0x26, 0x00, 0x00, // xsave [0]
    0x0f, 0x20, 0xd0, // mov eax, cr2
    0x66, 0xa3, 0x00, 0x0c, // mov [0xc00], eax
    0x66, 0x31, 0xc9, // xor ecx, ecx
    0x0f, 0x01, 0xd0, // xgetbv
    0x66, 0xa3, 0x04, 0x0c, // mov [0xc04], eax
    0x66, 0xb9, 0x03, 0x01, 0x00, 0xc0, // mov ecx, TSC_AUX
    0x0f, 0x32, // rdmsr
    0x66, 0xa3, 0x08, 0x0c, // mov [0xc08], eax
    0x66, 0xb9, 0x02, 0x01, 0x00, 0xc0, // mov ecx, KERNEL_GS_BASE
    0x0f, 0x32, // rdmsr
    0x66, 0xa3, 0x0c, 0x0c, // mov [0xc0c], eax
    0x0f, 0x21, 0xc0, // mov eax, dr0
    0x66, 0xa3, 0x10, 0x0c, // mov [0xc10], eax
    0x0f, 0x21, 0xc8, // mov eax, dr1
    0x66, 0xa3, 0x14, 0x0c, // mov [0xc14], eax
    0x0f, 0x21, 0xd0, // mov eax, dr2
    0x66, 0xa3, 0x18, 0x0c, // mov [0xc18], eax
    0x0f, 0x21, 0xd8, // mov eax, dr3
    0x66, 0xa3, 0x1c, 0x0c, // mov [0xc1c], eax
    0x66, 0x89, 0x2e, 0x20, 0x0c, // mov [0xc20], ebp
    0x66, 0x89, 0x1e, 0x24, 0x0c, // mov [0xc24], ebx
    0x66, 0x89, 0x36, 0x28, 0x0c, // mov [0xc28], esi
    0x66, 0x89, 0x3e, 0x2c, 0x0c, // mov [0xc2c], edi
    0xf4, // hlt
];
/// Where the guest stores the words that XSAVE does not.
const SEEN: usize = 0xc00;
/// All that a first entry loads.
const ALL: Mtd = Mtd(0x01df_ffff & !Mtd::QUAL.0);

/// A guest with registers of its own.
struct Guest {
    vcpu: Vcpu,
    data: Window,
    registers: Area,
    /// What it must find at [`SEEN`].
    expected: [u32; 12],
    /// The kernel is ours: debug registers can be given and told.
    ours: bool,
    /// All is loaded.
    begun: bool,
}

impl Guest {
    fn new(world: &World, number: u64) -> Result<Guest, Status> {
        let code = free_ram(&world.boot.hip, 8192, 4096).ok_or(Status::Oom)?;
        let code = Window::physical(code, 8192, MEM_RWX)?;
        let base = 0x10_0000 + number * 0x1_0000;
        for page in 0..2 {
            let item = TypedItem {
                crd: Crd::memory((code.address() >> abi::PAGE_BITS) + page, 0, MEM_RWX),
                meta: ItemMeta::DELEGATE | ItemMeta::GUEST | ItemMeta::NO_HOST,
            };
            let window = Crd::memory((base >> abi::PAGE_BITS) + page, 0, 0x1f);
            calls::delegate(PD, PD, item, window)?;
        }
        let _ = code.fill(0);
        let _ = code.copy_in(0, CODE);
        let mut vcpu = Vcpu::new(world.boot.cpu)?;
        let seed = 3 + number;
        let registers = Area::pattern(seed);
        for (index, word) in registers.0.iter().enumerate() {
            let _ = vcpu.fpu().write(8 * index, *word);
        }
        let word = |index: u64| value(seed, 2000 + index) & 0x7fff_ffff;
        let state = vcpu.state();
        prepare(state, base);
        (state.cr2, state.tsc_aux, state.kernel_gs_base) = (word(0), word(2) as u32, word(3));
        (state.rbp, state.rbx, state.rsi, state.rdi) = (word(8), word(9), word(10), word(11));
        for (index, dr) in (4..).zip(&mut state.extended.dr) {
            *dr = word(index);
        }
        let mut expected = [0; 12];
        for (index, seen) in (0..).zip(&mut expected) {
            *seen = word(index) as u32;
        }
        expected[1] = xcr0() as u32;
        let ours = world.boot.hip.ours().is_some();
        Ok(Guest { vcpu, data: code, registers, expected, ours, begun: false })
    }

    /// Runs it from its beginning by `crossing`; what the thread found strange.
    fn turn(&mut self, crossing: &mut Crossing) -> Option<usize> {
        for offset in (4096..8192).step_by(8) {
            let _ = self.data.write(offset, 0u64);
        }
        self.vcpu.state().rip = 0;
        let load = if self.begun { Mtd::RIP_LEN | Mtd::STA } else { ALL };
        let vcpu = self.vcpu.selector();
        let call = if self.ours {
            VcpuRunExt {
                vcpu,
                load,
                tell: Mtd(!0),
                load_extended: !self.begun,
                tell_extended: true,
                reserved: 0,
            }
            .encode()
        } else {
            VcpuCtrl::Run { vcpu, mtd: load }.encode()
        };
        self.begun = true;
        crossing.make(call)
    }

    /// What is not its own: a byte offset into its data page, or 0x3000 for another exit than its HLT.
    fn strange(&mut self) -> Option<usize> {
        if ExitReason::from_word(self.vcpu.state().exit_reason) != ExitReason::Hlt {
            return Some(0x3000);
        }
        let data = &self.data;
        let word = |index: usize| data.read::<u64>(4096 + 8 * index).unwrap_or(0);
        let seen = |index: &usize| data.read::<u32>(4096 + SEEN + 4 * index);
        let counts = |index: &usize| self.ours || !(4..8).contains(index);
        let expected = |index: &usize| self.expected.get(*index).copied();
        let fpu = self.vcpu.fpu();
        let kept = |index: usize| fpu.read::<u64>(8 * index).unwrap_or(0);
        self.registers
            .differs(&word, true)
            .or_else(|| self.registers.differs(&kept, false))
            .or_else(|| {
                (0..12).filter(counts).find(|i| seen(i) != expected(i)).map(|i| SEEN + 4 * i)
            })
    }
}

/// Both guests in turn, run by a thread with registers of its own.
fn guests(world: &mut World, mut guests: [Guest; 2]) {
    let mut crossing = Crossing::new(5);
    let (mut thread, mut guest) = (None, None);
    for _ in 0..ROUNDS {
        for running in &mut guests {
            thread = thread.or(running.turn(&mut crossing));
            guest = guest.or(running.strange());
        }
    }
    world.tally.equal("a thread keeps its registers across guests", thread, None);
    world.tally.equal("a guest sees its own registers", guest, None);
    let told = guests.iter_mut().all(|guest| {
        let (cr2, aux) = (guest.expected[0], guest.expected[2]);
        let state = guest.vcpu.state();
        (state.cr2, state.tsc_aux) == (u64::from(cr2), aux)
    });
    world.tally.holds("and its monitor is told them", told);
}

/// Real mode with XSAVE on, code at `base`, data in the page behind it.
fn prepare(state: &mut StatePage, base: u64) {
    let code = Segment { selector: 0, ar: 0x9b, limit: 0xffff, base };
    let data = Segment { ar: 0x93, base: base + 4096, ..code };
    state.cs = code;
    for segment in [&mut state.es, &mut state.ss, &mut state.ds, &mut state.fs, &mut state.gs] {
        *segment = data;
    }
    state.ldtr = Segment { ar: 0x82, base: 0, ..data };
    state.tr = Segment { ar: 0x8b, base: 0, ..data };
    state.gdtr = Segment { limit: 0xffff, ..Segment::ZERO };
    state.idtr = Segment { limit: 0xffff, ..Segment::ZERO };
    state.rsp = 0xff0;
    state.rflags = 2;
    state.cr0 = 0x10;
    // OSFXSR, OSXMMEXCPT, OSXSAVE.
    state.cr4 = 0x4_0600;
    state.xcr0 = xcr0();
    state.dr7 = 0x400;
    state.pat = 0x0007_0406_0007_0406;
    // MSR bitmaps: TSC_AUX and KERNEL_GS_BASE do not exit.
    state.ctrl[0] = 1 << 28;
    state.tsc_timeout = u64::MAX;
    const { assert!(WORDS * 8 == 4096) };
}
