//! The decoder against a published one, `iced-x86`: whatever ours claims to know must agree.

use devices::decode::{Instruction, Mode, Operation, Segment, decode};
use iced_x86::{Decoder, DecoderOptions, OpKind, Register};
use proptest::prelude::*;

const MODES: [(Mode, u32); 3] = [(Mode::Bits16, 16), (Mode::Bits32, 32), (Mode::Bits64, 64)];

/// Whether a segment is the oracle's. In 64-bit mode all but FS and GS are one and the same, and
/// the oracle reports overrides that the processor ignores.
fn same(ours: Segment, theirs: Register, bits: u32) -> bool {
    let flat = |register| !matches!(register, Register::FS | Register::GS);
    let ours = match ours {
        Segment::Es => Register::ES,
        Segment::Cs => Register::CS,
        Segment::Ss => Register::SS,
        Segment::Ds => Register::DS,
        Segment::Fs => Register::FS,
        Segment::Gs => Register::GS,
    };
    ours == theirs || bits == 64 && flat(ours) && flat(theirs)
}

fn number(register: Register) -> Option<u8> {
    register.is_gpr().then(|| u8::try_from(register.number()).unwrap_or(0xff))
}

/// What the oracle says of the same bytes; `None` for an invalid instruction.
fn oracle(bytes: &[u8], bits: u32) -> Option<iced_x86::Instruction> {
    let mut decoder = Decoder::with_ip(bits, bytes, 0, DecoderOptions::NONE);
    let instruction = decoder.decode();
    (!instruction.is_invalid()).then_some(instruction)
}

/// Compares length, and for memory operands everything the monitor uses.
fn agree(bytes: &[u8], mode: Mode, bits: u32) -> Result<bool, String> {
    let Ok(ours) = decode(bytes, mode) else { return Ok(false) };
    let theirs = oracle(bytes, bits).ok_or_else(|| format!("{ours:?} is invalid"))?;
    if usize::from(ours.length) != theirs.len() {
        return Err(format!("{ours:?} has length {} as {:?}", theirs.len(), theirs.code()));
    }
    if ours.operation == Operation::Other {
        return Ok(true);
    }
    compare(&ours, &theirs, bits).map(|()| true)
}

fn compare(ours: &Instruction, theirs: &iced_x86::Instruction, bits: u32) -> Result<(), String> {
    let difference = |what: &str| Err(format!("{what}: {ours:?} against {:?}", theirs.code()));
    let memory = ours.memory.ok_or("no memory operand")?;
    if usize::from(ours.size) != theirs.memory_size().size() {
        return difference("size");
    }
    if matches!(
        ours.operation,
        Operation::StoreString | Operation::LoadString | Operation::MoveString(_)
    ) {
        let right = match ours.operation {
            Operation::StoreString => memory.segment == Segment::Es,
            Operation::LoadString => same(memory.segment, theirs.memory_segment(), bits),
            Operation::MoveString(from) => same(from.segment, theirs.memory_segment(), bits),
            _ => false,
        };
        return if right { Ok(()) } else { difference("string segment") };
    }
    if !same(memory.segment, theirs.memory_segment(), bits) {
        return difference("segment");
    }
    if memory.rip_relative != theirs.is_ip_rel_memory_operand() {
        return difference("rip");
    }
    if number(theirs.memory_base()) != memory.base || number(theirs.memory_index()) != memory.index
    {
        return difference("registers");
    }
    if memory.index.is_some() && u32::from(memory.scale) != theirs.memory_index_scale() {
        return difference("scale");
    }
    let mask = if memory.address_size == 8 {
        u64::MAX
    } else {
        (1 << (8 * u32::from(memory.address_size))) - 1
    };
    let mut displacement = memory.displacement as u64;
    if memory.rip_relative {
        displacement = displacement.wrapping_add(ours.length.into());
    }
    if displacement & mask != theirs.memory_displacement64() & mask {
        return difference("displacement");
    }
    let register = match ours.operation {
        Operation::Load { to, width, .. } => Some((to, width)),
        Operation::Store(devices::decode::Source::Register(from))
        | Operation::Update(_, devices::decode::Source::Register(from))
        | Operation::Accumulate(_, from)
        | Operation::Exchange(from) => Some((from, ours.size)),
        Operation::Store(devices::decode::Source::Immediate(value))
        | Operation::Update(_, devices::decode::Source::Immediate(value)) => {
            let wanted = theirs.immediate(1);
            let mask = u64::MAX >> (64 - 8 * u32::from(ours.size));
            if value as u64 & mask != wanted & mask {
                return difference("immediate");
            }
            None
        }
        _ => None,
    };
    if let Some((register, width)) = register {
        let operand = (0..theirs.op_count())
            .find(|op| theirs.op_kind(*op) == OpKind::Register)
            .map(|op| theirs.op_register(op))
            .ok_or("no register operand")?;
        let high = matches!(operand, Register::AH | Register::CH | Register::DH | Register::BH);
        let full = u8::try_from(operand.full_register().number()).unwrap_or(0xff);
        if full != register.number || high != register.high || operand.size() != width.into() {
            return difference("register operand");
        }
    }
    Ok(())
}

/// Every opcode of both maps with every ModRM byte, under the usual prefixes.
#[test]
fn every_opcode_and_modrm_agrees() {
    let prefixes: [&[u8]; 14] = [
        &[],
        &[0x66],
        &[0x67],
        &[0xf2],
        &[0xf3],
        &[0xf0],
        &[0x48],
        &[0x4f],
        &[0x66, 0x48],
        &[0x48, 0x66],
        &[0x64],
        &[0x2e],
        &[0x40],
        &[0x67, 0x66],
    ];
    let tail = [0x9a, 0x85, 0xf3, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88];
    let mut known = 0_u32;
    for (mode, bits) in MODES {
        for prefix in prefixes {
            for map in [&[][..], &[0x0f][..]] {
                for opcode in 0..=0xff_u8 {
                    for modrm in 0..=0xff_u8 {
                        let mut bytes = prefix.to_vec();
                        bytes.extend_from_slice(map);
                        bytes.extend_from_slice(&[opcode, modrm]);
                        bytes.extend_from_slice(&tail);
                        bytes.truncate(15);
                        match agree(&bytes, mode, bits) {
                            Ok(claimed) => known += u32::from(claimed),
                            Err(why) => panic!("{bits} bits, {bytes:02x?}: {why}"),
                        }
                    }
                }
            }
        }
    }
    assert!(known > 1_500_000, "only {known} encodings are covered");
}

/// What the monitor depends on, each with its length.
#[test]
fn these_must_be_covered() {
    let list: [(&[u8], Mode); 49] = [
        (&[0x0f, 0xa2], Mode::Bits64),                               // cpuid
        (&[0x0f, 0x32], Mode::Bits64),                               // rdmsr
        (&[0x0f, 0x30], Mode::Bits64),                               // wrmsr
        (&[0xf4], Mode::Bits64),                                     // hlt
        (&[0xf3, 0x90], Mode::Bits64),                               // pause
        (&[0x0f, 0x31], Mode::Bits64),                               // rdtsc
        (&[0x0f, 0x01, 0xf9], Mode::Bits64),                         // rdtscp
        (&[0x0f, 0x33], Mode::Bits64),                               // rdpmc
        (&[0x0f, 0x01, 0x38], Mode::Bits64),                         // invlpg [rax]
        (&[0x0f, 0x01, 0xd1], Mode::Bits64),                         // xsetbv
        (&[0x0f, 0x01, 0xd9], Mode::Bits64),                         // vmmcall
        (&[0x0f, 0x01, 0xc1], Mode::Bits64),                         // vmcall
        (&[0x0f, 0x09], Mode::Bits64),                               // wbinvd
        (&[0x0f, 0x08], Mode::Bits64),                               // invd
        (&[0x0f, 0x06], Mode::Bits64),                               // clts
        (&[0x0f, 0x01, 0xf0], Mode::Bits32),                         // lmsw ax
        (&[0x0f, 0x01, 0xe0], Mode::Bits32),                         // smsw eax
        (&[0x0f, 0x01, 0x15, 1, 2, 3, 4], Mode::Bits32),             // lgdt
        (&[0x0f, 0x01, 0x1d, 1, 2, 3, 4], Mode::Bits32),             // lidt
        (&[0x0f, 0x00, 0xd8], Mode::Bits64),                         // ltr
        (&[0x0f, 0x00, 0xd0], Mode::Bits64),                         // lldt
        (&[0x0f, 0x22, 0xc0], Mode::Bits64),                         // mov cr0, rax
        (&[0x0f, 0x20, 0xe0], Mode::Bits64),                         // mov rax, cr4
        (&[0x44, 0x0f, 0x22, 0xc0], Mode::Bits64),                   // mov cr8, rax
        (&[0x0f, 0x23, 0xf8], Mode::Bits64),                         // mov dr7, rax
        (&[0x0f, 0x21, 0xf0], Mode::Bits64),                         // mov rax, dr6
        (&[0xe4, 0x71], Mode::Bits64),                               // in al, 0x71
        (&[0x66, 0xed], Mode::Bits64),                               // in ax, dx
        (&[0xee], Mode::Bits64),                                     // out dx, al
        (&[0xe7, 0x80], Mode::Bits32),                               // out 0x80, eax
        (&[0xf3, 0x6c], Mode::Bits64),                               // rep insb
        (&[0xf3, 0x66, 0x6f], Mode::Bits64),                         // rep outsw
        (&[0x8b, 0x04, 0x25, 0x30, 0, 0xe0, 0xfe], Mode::Bits64),    // mov eax, [..]
        (&[0x89, 0xb7, 0, 0xd0, 0x5f, 0xff], Mode::Bits64),          // mov [rdi-..], esi
        (&[0xc7, 0x04, 0x25, 0, 0, 0, 0, 1, 0, 0, 0], Mode::Bits64), // mov dword [..], 1
        (&[0xa1, 1, 2, 3, 4], Mode::Bits32),                         // mov eax, moffs
        (&[0x0f, 0xb6, 0x06], Mode::Bits64),                         // movzx eax, byte [rsi]
        (&[0x48, 0x0f, 0xbe, 0x06], Mode::Bits64),                   // movsx rax, byte [rsi]
        (&[0x48, 0x63, 0x06], Mode::Bits64),                         // movsxd
        (&[0xf3, 0xab], Mode::Bits64),                               // rep stosd
        (&[0xf3, 0x48, 0xa5], Mode::Bits64),                         // rep movsq
        (&[0x81, 0x20, 1, 2, 3, 4], Mode::Bits64),                   // and dword [rax], imm
        (&[0x83, 0x08, 1], Mode::Bits64),                            // or dword [rax], imm8
        (&[0xf0, 0x31, 0x07], Mode::Bits64),                         // lock xor [rdi], eax
        (&[0xf6, 0x46, 0x10, 0x01], Mode::Bits64),                   // test byte [rsi+16], 1
        (&[0xf7, 0x06, 1, 2], Mode::Bits16),                         // (16-bit address)
        (&[0x3b, 0x07], Mode::Bits64),                               // cmp eax, [rdi]
        (&[0x87, 0x07], Mode::Bits64),                               // xchg [rdi], eax
        (&[0xcd, 0x80], Mode::Bits32),                               // int 0x80
    ];
    for (bytes, mode) in list {
        let mut padded = bytes.to_vec();
        padded.resize(15, 0x90);
        let instruction = decode(&padded, mode);
        if bytes == [0xf7, 0x06, 1, 2] {
            assert_eq!(instruction.map(|i| i.length), Ok(6));
            continue;
        }
        let length = u8::try_from(bytes.len()).unwrap();
        assert_eq!(instruction.map(|i| i.length), Ok(length), "{bytes:02x?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_agree(bytes in proptest::collection::vec(any::<u8>(), 0..18)) {
        for (mode, bits) in MODES {
            agree(&bytes, mode, bits).map_err(TestCaseError::fail)?;
        }
    }

    /// Prefixes piled up before a random opcode, up to and past fifteen bytes.
    #[test]
    fn random_prefixes_agree(
        prefixes in proptest::collection::vec(
            proptest::sample::select(vec![
                0x26_u8, 0x2e, 0x36, 0x3e, 0x64, 0x65, 0x66, 0x67, 0xf0, 0xf2, 0xf3, 0x41, 0x48,
                0x4f, 0x0f,
            ]),
            0..9,
        ),
        rest in proptest::collection::vec(any::<u8>(), 0..15),
    ) {
        let bytes = [prefixes, rest].concat();
        for (mode, bits) in MODES {
            agree(&bytes, mode, bits).map_err(TestCaseError::fail)?;
        }
    }
}
