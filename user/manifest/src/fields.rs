//! Properties as values, and nothing but what is known.
use crate::Refusal;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use dtoolkit::fdt::FdtNode;
use dtoolkit::{Node, Property};

/// A number of so many cells, if the property is there.
pub fn number(
    node: &FdtNode,
    path: &str,
    name: &str,
    cells: usize,
) -> Result<Option<u64>, Refusal> {
    let Some(property) = node.property(name) else { return Ok(None) };
    let value = property.value();
    if value.len() != cells * 4 {
        let why = format!("{name} is not {cells} cell(s)");
        return Err(Refusal::new(path, name, why));
    }
    Ok(Some(value.iter().fold(0, |sum, byte| (sum << 8) | u64::from(*byte))))
}

/// A number of one cell within limits, if the property is there.
pub fn within(
    node: &FdtNode,
    path: &str,
    name: &str,
    range: core::ops::RangeInclusive<u64>,
) -> Result<Option<u64>, Refusal> {
    let Some(value) = number(node, path, name, 1)? else { return Ok(None) };
    if range.contains(&value) {
        return Ok(Some(value));
    }
    let (first, last) = (range.start(), range.end());
    Err(Refusal::new(path, name, format!("{name} is {value}, not {first} to {last}")))
}

/// One cell or more, if the property is there.
pub fn numbers(node: &FdtNode, path: &str, name: &str) -> Result<Option<Vec<u32>>, Refusal> {
    let Some(property) = node.property(name) else { return Ok(None) };
    let (cells, rest) = property.value().as_chunks::<4>();
    if cells.is_empty() || !rest.is_empty() {
        return Err(Refusal::new(path, name, format!("{name} is not one or more cells")));
    }
    Ok(Some(cells.iter().map(|cell| u32::from_be_bytes(*cell)).collect()))
}

/// The processors in `cpus`, bit by bit; none if the property is not there.
pub fn cpus(node: &FdtNode, path: &str) -> Result<u64, Refusal> {
    let mut cpus = 0;
    for cpu in numbers(node, path, "cpus")?.unwrap_or_default() {
        let bit = 1_u64.checked_shl(cpu).filter(|bit| cpus & bit == 0).ok_or_else(|| {
            let why = format!("cpus has {cpu}: each once, 0 to 63");
            Refusal::new(path, "cpus", why)
        })?;
        cpus |= bit;
    }
    Ok(cpus)
}

/// A string, if the property is there.
pub fn text(node: &FdtNode, path: &str, name: &str) -> Result<Option<String>, Refusal> {
    let Some(property) = node.property(name) else { return Ok(None) };
    let bad = || Refusal::new(path, name, format!("{name} is not one string"));
    let bytes = property.value().strip_suffix(&[0]).ok_or_else(bad)?;
    if bytes.contains(&0) {
        return Err(bad());
    }
    core::str::from_utf8(bytes).map(|text| Some(text.into())).map_err(|_| bad())
}

/// Some strings; none if the property is not there.
pub fn texts(node: &FdtNode, path: &str, name: &str) -> Result<Vec<String>, Refusal> {
    let Some(property) = node.property(name) else { return Ok(Vec::new()) };
    let bad = || Refusal::new(path, name, format!("{name} is not one or more strings"));
    let bytes = property.value().strip_suffix(&[0]).ok_or_else(bad)?;
    let text = |part| core::str::from_utf8(part).map(String::from).map_err(|_| bad());
    bytes.split(|byte| *byte == 0).map(text).collect()
}

/// Whether a property without a value is there.
pub fn flag(node: &FdtNode, path: &str, name: &str) -> Result<bool, Refusal> {
    match node.property(name) {
        None => Ok(false),
        Some(property) if property.value().is_empty() => Ok(true),
        Some(_) => Err(Refusal::new(path, name, format!("{name} takes no value"))),
    }
}

/// Refuses properties and nodes that are not known, and those that are there twice.
pub fn only(
    node: &FdtNode,
    path: &str,
    properties: &[&str],
    children: &[&str],
) -> Result<(), Refusal> {
    let mut seen: Vec<String> = Vec::new();
    for property in node.properties() {
        let name = property.name();
        if !properties.contains(&name) {
            return Err(Refusal::new(path, name, format!("unknown property {name}")));
        }
        if seen.iter().any(|other| other == name) {
            return Err(Refusal::new(path, name, format!("{name} is there twice")));
        }
        seen.push(name.into());
    }
    seen.clear();
    for child in node.children() {
        let name = child.name();
        let path = format!("{}/{name}", path.trim_end_matches('/'));
        if !children.contains(&name) {
            return Err(Refusal::new(&path, "", "unknown node"));
        }
        if seen.iter().any(|other| other == name) {
            return Err(Refusal::new(&path, "", "a second node of this name"));
        }
        seen.push(name.into());
    }
    Ok(())
}
