//! Tables of real firmware, tables made for the purpose, and damaged ones.

use super::*;
use acpi_tables::Aml;
use acpi_tables::aml::{
    Field, FieldAccessType, FieldEntry, FieldLockRule, FieldUpdateRule, If, Method, Name, ONE,
    OpRegion, OpRegionSpace, Package, Path, Return, Store, ZERO,
};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;
use std::time::Duration;

/// DSDTs that QEMU 7.2 makes for its machines `pc` and `q35`, read from their memory.
const PC: &[u8] = include_bytes!("../tables/qemu-pc.aml");
const Q35: &[u8] = include_bytes!("../tables/qemu-q35.aml");

/// A table with these terms.
fn table(terms: &[&dyn Aml]) -> Vec<u8> {
    let mut bytes = vec![0; HEADER];
    bytes[REVISION] = 2;
    terms.iter().for_each(|term| term.to_aml_bytes(&mut bytes));
    bytes
}

fn ask(tables: &[&[u8]]) -> Answer {
    evaluate(&Order { tables: tables.to_vec(), memory: Vec::new() })
}

/// `_S3` as a package of these.
fn named(elements: Vec<&dyn Aml>) -> Vec<u8> {
    table(&[&Name::new("_S3_".into(), &Package::new(elements))])
}

/// A region of four bytes at `offset` with one field, `SS3_`.
fn field(space: OpRegionSpace, offset: u32) -> Vec<u8> {
    let entry = FieldEntry::Named(*b"SS3_", 8);
    let rules = (FieldLockRule::NoLock, FieldUpdateRule::Preserve);
    let fields = Field::new("RGN_".into(), FieldAccessType::Byte, rules.0, rules.1, vec![entry]);
    table(&[&OpRegion::new("RGN_".into(), space, &offset, &4_u32), &fields])
}

/// `If (SS3) { Name (_S3, Package (2) {One, One}) }`, as firmware of real machines has it.
fn conditional() -> Vec<u8> {
    let name = Name::new("\\_S3_".into(), &Package::new(vec![&ONE, &ONE]));
    table(&[&If::new(&Path::new("SS3_"), vec![&name])])
}

#[test]
fn qemu_sleeps() {
    for dsdt in [PC, Q35] {
        assert_eq!(ask(&[dsdt]), Answer { suspend: Ok([1, 1]), off: Some([0, 0]) });
    }
}

#[test]
fn types_may_be_computed() {
    let package = Package::new(vec![&5_u8, &3_u8]);
    let answer = Return::new(&package);
    let method = Method::new("_S3_".into(), 0, false, vec![&answer]);
    assert_eq!(ask(&[PC, &table(&[])]).suspend, Ok([1, 1]));
    assert_eq!(ask(&[&table(&[&method])]).suspend, Ok([5, 3]));
    // One number for both registers.
    assert_eq!(ask(&[&named(vec![&0x0305_u16])]).suspend, Ok([5, 3]));
}

#[test]
fn firmware_says_in_its_memory_whether_the_machine_sleeps() {
    let (region, name) = (field(OpRegionSpace::SystemMemory, 0x7f0_0010), conditional());
    let with = |value: u8| {
        let mut memory = vec![0; 0x20];
        memory[0x10] = value;
        let tables = vec![region.as_slice(), name.as_slice()];
        evaluate(&Order { tables, memory: vec![(0x7f0_0000, &memory)] }).suspend
    };
    assert_eq!(with(1), Ok([1, 1]));
    assert_eq!(with(0), Err("the ACPI tables have no \\_S3".into()));
}

#[test]
fn everything_else_is_refused_and_named() {
    let name = conditional();
    for (space, offset, reason) in [
        (OpRegionSpace::SystemMemory, 0xfed0_0000, "AML wants to read memory at 0xfed00000"),
        (OpRegionSpace::SystemIO, 0x72, "AML wants port 0x72"),
        (OpRegionSpace::PCIConfig, 0x40, "AML wants register "),
    ] {
        let why = ask(&[&field(space, offset), &name]).suspend.unwrap_err();
        assert!(why.starts_with(reason), "{why}");
    }
    // No types where a write would have to be believed.
    let write = table(&[&Store::new(&Path::new("SS3_"), &ONE)]);
    let region = field(OpRegionSpace::SystemMemory, 0x1000);
    let why = ask(&[&region, &write, &named(vec![&ONE, &ONE])]).suspend.unwrap_err();
    assert_eq!(why, "AML wants to write memory at 0x1000");
    // Interpreters know no embedded controller.
    let why = ask(&[&field(OpRegionSpace::EmbeddedControl, 0), &name]).suspend.unwrap_err();
    assert!(why.contains("EmbeddedControl"), "{why}");
}

#[test]
fn what_is_no_sleep_type_is_none() {
    let refused = |bytes: &[u8], reason: &str| {
        let why = ask(&[bytes]).suspend.unwrap_err();
        assert!(why.contains(reason), "{why}");
    };
    refused(&table(&[]), "the ACPI tables have no \\_S3");
    refused(&table(&[&Name::new("_S3_".into(), &ONE)]), "is no package");
    refused(&named(vec![]), "does not begin with a number");
    refused(&named(vec![&"one"]), "does not begin with a number");
    refused(&named(vec![&ONE, &"one"]), "has no second number");
    refused(&named(vec![&8_u8, &ONE]), "has no sleep types: [8, 1]");
    refused(&named(vec![&ZERO, &u64::MAX]), "has no sleep types");
    refused(b"short", "the ACPI tables have no \\_S3");
}

/// As the root task sees it: an answer, a crash, or nothing in time.
fn contained(tables: Vec<Vec<u8>>) -> &'static str {
    let (tell, hear) = mpsc::channel();
    std::thread::spawn(move || {
        let tables = tables.iter().map(Vec::as_slice).collect();
        let order = Order { tables, memory: Vec::new() };
        let answer = catch_unwind(AssertUnwindSafe(|| evaluate(&order)));
        let types = |types: [u8; 2]| types.iter().all(|kind| u64::from(*kind) <= MOST_TYPE);
        let _ = tell.send(answer.map(|answer| {
            assert!(answer.suspend.is_err() || answer.suspend.is_ok_and(types));
        }));
    });
    match hear.recv_timeout(Duration::from_secs(5)) {
        Ok(Ok(())) => "answer",
        Ok(Err(_)) => "crash",
        Err(_) => "silence",
    }
}

#[test]
fn a_loop_without_end_and_a_panic_are_what_the_domain_is_for() {
    // While (One) {}
    assert_eq!(contained(vec![[&[0; HEADER][..], b"\xa2\x02\x01"].concat()]), "silence");
    // LoadTable: the interpreter has it as something to do.
    assert_eq!(contained(vec![[&[0; HEADER][..], b"\x5b\x1f"].concat()]), "crash");
}

#[test]
fn damaged_tables_are_answers_crashes_or_silence_and_nothing_else() {
    std::panic::set_hook(Box::new(|_| ()));
    let mut seed = 7_u64;
    let mut random = move || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (seed >> 33) as usize
    };
    let mut seen = std::collections::BTreeMap::new();
    for round in 0..600 {
        let mut bytes = PC.to_vec();
        if round % 3 == 0 {
            // Anything at all behind the header.
            bytes.truncate(HEADER + 200);
            bytes[HEADER..].fill_with(|| random() as u8);
        } else {
            for _ in 0..1 + round % 5 {
                let at = HEADER + random() % (bytes.len() - HEADER);
                bytes[at] = random() as u8;
            }
        }
        *seen.entry(contained(vec![bytes])).or_insert(0) += 1;
    }
    let _ = std::panic::take_hook();
    assert_eq!(seen.values().sum::<i32>(), 600);
    assert!(seen["answer"] > 100, "{seen:?}");
}
