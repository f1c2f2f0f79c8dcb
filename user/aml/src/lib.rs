//! What a machine's AML says about sleep: `\\_S3` and `\\_S5`, evaluated by the crate `acpi` (ACPI 6.4, 7.4.2).
//!
//! The interpreter takes what firmware wrote, panics on much of what it does not know, and runs a loop for as long as the
//! loop lasts. So it runs in a domain of its own that has memory and nothing else: it gets copies of the tables and of the
//! firmware's memory, and gives sleep types or a reason (`root::evaluation`). Who asked does not wait for ever.
#![cfg_attr(target_os = "none", no_std)]
#![deny(unsafe_code)]

extern crate alloc;

mod handler;

use acpi::aml::Interpreter;
use acpi::aml::namespace::AmlName;
use acpi::aml::object::Object;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use core::str::FromStr;
use handler::Firmware;
use root::evaluation::{Answer, Order};

/// Bytes of the header before a table's AML, and where its revision is.
const HEADER: usize = 36;
const REVISION: usize = 8;
/// Sleep types have three bits (4.8.3.2.1).
const MOST_TYPE: u64 = 7;

/// Loads all tables, runs what stands outside of methods, and evaluates the two objects. Nothing is written anywhere, and
/// nothing but the tables and the firmware's memory is read: AML that wants more gets all ones, and its answer is refused.
///
/// May panic, and may run for ever.
#[must_use]
pub fn evaluate(order: &Order<'_>) -> Answer {
    let firmware = Firmware::new(order.memory.iter().map(|(at, bytes)| (*at, bytes.to_vec())));
    let revision = order.tables.first().and_then(|dsdt| dsdt.get(REVISION)).copied();
    let registers = handler::registers(&firmware);
    let interpreter = Interpreter::new(firmware.clone(), revision.unwrap_or(2), registers, None);
    let mut broken = None;
    for (number, table) in order.tables.iter().enumerate() {
        let aml = table.get(HEADER..).unwrap_or_default();
        if let Err(error) = interpreter.load_table(aml) {
            broken.get_or_insert(format!("table {number} is broken: {error:?}"));
        }
    }
    let suspend = types(&interpreter, "\\_S3").map_err(|why| match &broken {
        Some(broken) => format!("{why}; {broken}"),
        None => why,
    });
    // What was made of all ones is no answer. Power-off does no harm.
    let suspend = firmware.refused().map_or(suspend, Err);
    Answer { suspend, off: types(&interpreter, "\\_S5").ok() }
}

/// The first two numbers of a package; one alone has both, a byte each.
fn types(interpreter: &Interpreter<Firmware>, name: &str) -> Result<[u8; 2], String> {
    let path = AmlName::from_str(name).map_err(|error| format!("{error:?}"))?;
    let found = interpreter.evaluate_if_present(path, vec![]);
    let found = found.map_err(|error| format!("{name} cannot be evaluated: {error:?}"))?;
    let found = found.ok_or_else(|| format!("the ACPI tables have no {name}"))?.unwrap_reference();
    let Object::Package(elements) = &*found else {
        return Err(format!("{name} is no package"));
    };
    let number = |index: usize| match &*elements.get(index)?.clone().unwrap_reference() {
        Object::Integer(value) => Some(*value),
        _ => None,
    };
    let first = number(0).ok_or_else(|| format!("{name} does not begin with a number"))?;
    let pair = match elements.len() {
        1 => [first & 0xff, first >> 8 & 0xff],
        _ => [first, number(1).ok_or_else(|| format!("{name} has no second number"))?],
    };
    match pair.map(|value| u8::try_from(value).ok().filter(|_| value <= MOST_TYPE)) {
        [Some(a), Some(b)] => Ok([a, b]),
        _ => Err(format!("{name} has no sleep types: {pair:?}").to_string()),
    }
}

#[cfg(test)]
mod tests;
