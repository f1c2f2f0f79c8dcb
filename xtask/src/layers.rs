//! The doors between rooms: who may name whom (docs/decisions/0001-rooms.md).
//!
//! The compiler guards that a room uses only what its manifest names; this table guards what the
//! manifests may name.

use crate::desk;
use anyhow::{Context, Result};
use std::fs;

/// A room and what it may name.
pub struct Room {
    /// The crate.
    pub name: &'static str,
    /// Its folder.
    pub folder: &'static str,
    /// Rooms that may stand in its `[dependencies]`.
    pub may_name: &'static [&'static str],
}

const fn room(name: &'static str, folder: &'static str, may_name: &'static [&'static str]) -> Room {
    Room { name, folder, may_name }
}

/// All rooms, from the words both sides speak to the front desk.
pub const ROOMS: &[Room] = &[
    room("abi", "abi", &[]),
    room("logic", "kernel/logic", &["abi"]),
    room("sync", "kernel/sync", &["abi", "logic"]),
    room("boot", "boot", &["abi", "logic", "sync"]),
    room("arch", "kernel/arch", &["abi", "logic", "sync", "boot"]),
    room("objects", "kernel/objects", &["abi", "logic", "sync", "arch"]),
    // Not arch: what a call means must not depend on the machine.
    room("syscalls", "kernel/syscalls", &["abi", "logic", "sync", "objects"]),
    room("kernel", "kernel", &["abi", "logic", "sync", "boot", "arch", "objects", "syscalls"]),
    room("rt", "user/rt", &["abi"]),
    room("devices", "user/devices", &[]),
    room("lifecycle", "user/lifecycle", &[]),
    // What a disk's changes take.
    room("manifest", "user/manifest", &["devices"]),
    room("refusal", "user/refusal", &["abi"]),
    room("vmm", "user/vmm", &["abi", "rt", "devices", "refusal"]),
    // The monitor's library says what its starter must hand it.
    room("root", "user/root", &["abi", "rt", "vmm", "lifecycle", "manifest"]),
    // What both agree on stands in root's library.
    room("aml", "user/aml", &["abi", "rt", "root"]),
    room("guests", "guests", &["abi", "rt"]),
    room("multiboot", "guests/multiboot", &[]),
    room("small", "guests/small", &[]),
    room("hello", "tests/hello", &["abi", "rt"]),
    room("suite", "tests/suite", &["abi", "rt"]),
    // Suspends the machine as the root task does.
    room("sleeper", "tests/sleeper", &["abi", "rt", "root"]),
    room("bench", "tests/bench", &["abi", "rt"]),
    room("victim", "tests/victim", &["abi", "rt"]),
    room("tests", "tests", &["abi"]),
    room("xtask", "xtask", &["abi", "refusal", "manifest", "tests"]),
];

/// What the rooms' manifests do that the table does not allow.
pub fn findings() -> Result<Vec<String>> {
    let mut found = Vec::new();
    let top = fs::read_to_string(desk::root().join("Cargo.toml")).context("Cargo.toml")?;
    for room in ROOMS {
        if !top.lines().any(|line| line.trim() == format!("\"{}\",", room.folder)) {
            continue;
        }
        let path = format!("{}/Cargo.toml", room.folder);
        let manifest = fs::read_to_string(desk::root().join(&path)).context(path.clone())?;
        found.extend(broken_doors(room, &manifest).iter().map(|name| {
            format!("{path}: {} must not name {name}; it may name {:?}", room.name, room.may_name)
        }));
    }
    for member in top.lines().filter_map(|line| line.trim().strip_suffix(',')) {
        let folder = member.trim_matches('"');
        if member.starts_with('"') && !ROOMS.iter().any(|room| room.folder == folder) {
            found.push(format!("Cargo.toml: {folder} is no room in xtask/src/layers.rs"));
        }
    }
    Ok(found)
}

/// Rooms that this manifest names and must not.
fn broken_doors(room: &Room, manifest: &str) -> Vec<String> {
    let is_room = |name: &str| ROOMS.iter().any(|room| room.name == name);
    let named = dependencies(manifest).into_iter();
    named.filter(|name| is_room(name) && !room.may_name.contains(&name.as_str())).collect()
}

/// The packages in a manifest's dependency tables, those for tests left out.
pub fn dependencies(manifest: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut inside = false;
    for line in manifest.lines().map(str::trim) {
        if let Some(header) = line.strip_prefix('[') {
            let header = header.trim_end_matches(']');
            let table = header.rsplit('.').next().unwrap_or_default();
            inside = matches!(table, "dependencies" | "build-dependencies");
            // `[dependencies.name]` is an entry of its own.
            if let Some((before, name)) = header.rsplit_once('.')
                && before.ends_with("dependencies")
                && !before.ends_with("dev-dependencies")
                && before != "workspace.dependencies"
            {
                names.push(name.to_string());
            }
            continue;
        }
        if !inside || line.starts_with('#') {
            continue;
        }
        if let Some((key, value)) = line.split_once('=') {
            let name = key.trim().split('.').next().unwrap_or_default().trim_matches('"');
            let renamed =
                value.split_once("package = \"").and_then(|(_, rest)| rest.split('"').next());
            names.push(renamed.unwrap_or(name).to_string());
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manifests_keep_the_doors() {
        assert_eq!(findings().unwrap(), Vec::<String>::new());
    }

    #[test]
    fn a_room_names_only_rooms_above_it() {
        for (place, room) in ROOMS.iter().enumerate() {
            for name in room.may_name {
                let above = ROOMS.iter().take(place).any(|other| other.name == *name);
                assert!(above, "{} may name {name}", room.name);
            }
        }
    }

    #[test]
    fn a_broken_door_is_found_in_every_spelling() {
        let syscalls = ROOMS.iter().find(|room| room.name == "syscalls").unwrap();
        for text in [
            "[dependencies]\narch.workspace = true\n",
            "[dependencies]\nmachine = { package = \"arch\", path = \"../arch\" }\n",
            "[dependencies.arch]\npath = \"../arch\"\n",
            "[target.'cfg(target_os = \"none\")'.dependencies]\narch = { path = \"x\" }\n",
            "[build-dependencies]\narch.workspace = true\n",
        ] {
            assert_eq!(broken_doors(syscalls, text), ["arch"], "{text}");
        }
        let fine =
            "[dependencies]\nobjects.workspace = true\n[dev-dependencies]\narch.workspace = true\n";
        assert!(broken_doors(syscalls, fine).is_empty());
    }
}
