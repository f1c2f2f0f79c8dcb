//! Exits as the kernel reports them, and what the guest sees afterwards.
use super::*;
use crate::claims::Seen;
use crate::cpuid::Leaf;
use crate::machine::Mailbox;
use crate::memory::{GuestMemory, Region};
use crate::passed::Passed;
use crate::virtio::Bus;
use core::sync::atomic::AtomicU64;
use devices::board::{Board, Config};
use devices::rtc::Memory;

pub(crate) fn ram() -> Vec<AtomicU64> {
    (0..(1 << 20) / 8).map(|_| AtomicU64::new(0)).collect()
}

fn host(eax: u32, _: u32) -> Leaf {
    match eax {
        0 => Leaf { eax: 0x16, ebx: u32::from_le_bytes(*b"Genu"), ..Leaf::default() },
        _ => Leaf { eax: !0, ebx: !0, ecx: !0, edx: !0 },
    }
}

pub(crate) fn vm(words: &[AtomicU64]) -> Vm<'_> {
    let memory = Memory { below_4g: 1 << 20, above_4g: 0 };
    let config = Config { vcpus: 2, tsc_hz: 1_000_000_000, epoch: 0, memory, x2apic: true };
    Vm {
        board: Board::new(&config),
        virtio: Bus::default(),
        ata: None,
        memory: GuestMemory::new(words),
        passed: Passed::none(),
        vmx: true,
        host_cpuid: host,
        tsc_zero: 0,
        tsc_khz: 1_000_000,
        epoch: 0,
        xcr0_allowed: 7,
        unclaimed: Unclaimed::Ones,
        mailboxes: vec![Mailbox::default(); 2],
        kicks: Vec::new(),
        messages: Vec::new(),
        seen_msrs: Seen::default(),
        ended: None,
    }
}

fn page(reason: ExitReason) -> Box<StatePage> {
    let mut page = Box::new(StatePage::ZERO);
    page.exit_reason = reason.word();
    page.rip = 0x1000;
    page.inst_len = 2;
    page
}

fn run(page: &mut StatePage, vm: &mut Vm) -> Next {
    handle(&mut Cpu::new(0), page, vm, Now::default())
}

#[test]
fn cpuid_answers_and_goes_on() {
    let words = ram();
    let mut vm = vm(&words);
    let mut page = page(ExitReason::Cpuid);
    page.rax = 0x4000_0000;
    assert!(matches!(run(&mut page, &mut vm), Next::Resume(mtd) if mtd.contains(Mtd::ACDB)));
    assert_eq!((page.rbx as u32).to_le_bytes(), *b"Hema");
    assert_eq!(page.rip, 0x1002);
}

#[test]
fn unknown_registers_fault_and_are_told_once() {
    let words = ram();
    let mut vm = vm(&words);
    for _ in 0..3 {
        let mut page = page(ExitReason::Rdmsr);
        page.rcx = 0x1234_5678;
        assert_eq!(run(&mut page, &mut vm), Next::Resume(Mtd::INJ));
        assert_eq!((page.intr_info, page.rip), (0x8000_0b0d, 0x1000));
    }
    assert_eq!(vm.messages.len(), 1);
}

#[test]
fn virtualization_instructions_are_undefined() {
    let words = ram();
    let mut vm = vm(&words);
    for reason in [ExitReason::Vmxon, ExitReason::Vmcall, ExitReason::Vmlaunch] {
        let mut page = page(reason);
        assert_eq!(run(&mut page, &mut vm), Next::Resume(Mtd::INJ));
        assert_eq!(page.intr_info, 0x8000_0306);
    }
}

#[test]
fn unclaimed_ports_read_ones_or_stop() {
    let words = ram();
    let mut vm = vm(&words);
    let mut page = page(ExitReason::Io);
    page.qual[0] = (0x1234 << 16) | 8 | 1;
    assert!(matches!(run(&mut page, &mut vm), Next::Resume(_)));
    assert_eq!((page.rax, vm.messages.len()), (0xffff, 1));
    vm.unclaimed = Unclaimed::Stop;
    page.qual[0] = (0x4321 << 16) | 8;
    assert!(matches!(run(&mut page, &mut vm), Next::Stop(why) if why.contains("0x4321")));
}

#[test]
fn strings_move_bytes_through_the_serial_port() {
    let words = ram();
    let mut vm = vm(&words);
    vm.memory.write(0x1000, &[0xf3, 0x6e]).unwrap();
    vm.memory.write(0x8000, b"hello").unwrap();
    let mut page = page(ExitReason::Io);
    page.qual[0] = (0x3f8 << 16) | 0x30;
    page.cs.ar = 1 << 10;
    page.rsi = 0x8000;
    page.rcx = 5;
    assert!(matches!(run(&mut page, &mut vm), Next::Resume(_)));
    assert_eq!((page.rcx, page.rsi, page.rip), (0, 0x8005, 0x1002));
    assert_eq!(vm.board.take_output(), b"hello");
}

#[test]
fn halting_waits_and_triple_faults_stop() {
    let words = ram();
    let mut vm = vm(&words);
    let mut cpu = Cpu::new(0);
    let mut page = page(ExitReason::Hlt);
    page.inst_len = 1;
    handle(&mut cpu, &mut page, &mut vm, Now::default());
    assert_eq!((cpu.activity, page.rip), (Activity::Halted, 0x1001));
    page.exit_reason = ExitReason::TripleFault.word();
    assert!(matches!(run(&mut page, &mut vm), Next::Stop(why) if why == "triple fault"));
}

#[test]
fn switching_off_ends_the_guest() {
    let words = ram();
    let mut vm = vm(&words);
    let mut page = page(ExitReason::Io);
    page.qual[0] = (0x604 << 16) | 1;
    page.rax = u64::from(crate::layout::S5_TYPE) << 10 | 1 << 13;
    run(&mut page, &mut vm);
    vm.drain();
    assert_eq!(vm.ended, Some(crate::machine::Ended::PowerOff));
    assert_eq!(vm.kicks.len(), 2);
}

#[test]
fn random_exits_never_panic() {
    let words = ram();
    let mut vm = vm(&words);
    let mut cpu = Cpu::new(0);
    let mut seed = 11u64;
    let mut random = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1442695040888963407);
        seed >> 7
    };
    let mut page = Box::new(StatePage::ZERO);
    for round in 0..50_000u32 {
        page.exit_reason = if round % 3 == 0 { 30 } else { (random() % 70) as u32 };
        page.rip = random() & 0xf_ffff;
        page.qual = [random(), random()];
        page.inst_len = random() % 17;
        (page.rax, page.rcx, page.rdx) = (random(), random(), random());
        (page.rsi, page.rdi) = (random(), random());
        (page.cr0, page.cr3, page.cr4) = (random() << 7, random(), random());
        page.cs.ar = random() as u16;
        page.efer = random();
        let now = Now { ns: u64::from(round) * 1000, tsc: u64::from(round) };
        handle(&mut cpu, &mut page, &mut vm, now);
        vm.drain();
        vm.messages.clear();
    }
}

/// mov eax, [0xfee00030] and mov dword [0xfee00080], 0x20 in 32-bit code.
#[test]
fn the_local_apic_answers_and_takes() {
    let words = ram();
    let mut vm = vm(&words);
    vm.memory.write(0x1000, &[0xa1, 0x30, 0, 0xe0, 0xfe]).unwrap();
    let mut page = page(ExitReason::EptViolation);
    (page.cs.ar, page.inst_len) = (1 << 10, 0);
    page.qual = [0x181, 0xfee0_0030];
    assert!(matches!(run(&mut page, &mut vm), Next::Resume(_)));
    assert_eq!((page.rax & 0xff, page.rip), (0x14, 0x1005));
    vm.memory.write(0x1005, &[0xc7, 5, 0x80, 0, 0xe0, 0xfe, 0x20, 0, 0, 0]).unwrap();
    page.qual = [0x182, 0xfee0_0080];
    assert!(matches!(run(&mut page, &mut vm), Next::Resume(_)));
    assert_eq!((vm.board.cr8(0), page.rip), (2, 0x100f));
}

#[test]
fn holes_read_ones_and_code_there_stops() {
    let words = ram();
    let mut vm = vm(&words);
    vm.memory.write(0x1000, &[0xa1, 0, 0, 0, 0xd0]).unwrap();
    let mut page = page(ExitReason::EptViolation);
    page.cs.ar = 1 << 10;
    page.qual = [0x181, 0xd000_0000];
    assert!(matches!(run(&mut page, &mut vm), Next::Resume(_)));
    assert_eq!((page.rax, vm.messages.len()), (0xffff_ffff, 1));
    page.qual = [0x184, 0xd000_0000];
    assert!(matches!(run(&mut page, &mut vm), Next::Stop(why) if why.contains("executes")));
}

/// xchg [0xd0000000], eax and mov [0xd0000000], al in 32-bit code, at a ROM.
#[test]
fn roms_are_read_and_not_written() {
    let (words, rom) = (ram(), [AtomicU64::new(0x1122_3344)]);
    let regions = [Region { start: 0xd000_0000, size: 4096, words: &rom, write: false }];
    let mut vm = vm(&words);
    vm.memory = vm.memory.and(&regions);
    vm.memory.write(0x1000, &[0x87, 5, 0, 0, 0, 0xd0, 0xa2, 0, 0, 0, 0xd0]).unwrap();
    let mut page = page(ExitReason::EptViolation);
    (page.cs.ar, page.rax) = (1 << 10, 7);
    page.qual = [0x182, 0xd000_0000];
    assert!(matches!(run(&mut page, &mut vm), Next::Resume(_)));
    assert_eq!((page.rax, page.rip, vm.messages.len()), (0x1122_3344, 0x1006, 1));
    vm.unclaimed = Unclaimed::Stop;
    assert!(matches!(run(&mut page, &mut vm), Next::Stop(why) if why.contains("nobody claims")));
    assert_eq!(vm.memory.read_number(0xd000_0000, 8), Ok(0x1122_3344));
}
