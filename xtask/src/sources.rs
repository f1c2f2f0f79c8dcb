//! Rules about source text that neither compiler nor clippy checks.

use crate::desk;
use crate::layers::{self, ROOMS};
use crate::tools;
use anyhow::{Context, Result};
use std::fs;
use std::process::Command;

/// Where `unsafe` may stand: every instruction and every lifetime argument lies here.
const UNSAFE_FOLDERS: &[&str] = &["boot/", "kernel/sync/", "kernel/arch/src/metal", "user/rt/"];

/// Single files beyond that, each with its reason.
const UNSAFE_FILES: &[(&str, &str)] = &[
    ("kernel/src/main.rs", "the entry symbol"),
    ("guests/multiboot/src/main.rs", "a guest in 32-bit assembly"),
    ("guests/small/src/machine.rs", "a guest's own instructions, entry and interrupt stubs"),
    ("tests/suite/src/registers.rs", "instructions that fill and read registers"),
    (
        "user/aml/src/handler.rs",
        "two unsafe functions of the interpreter's trait, and its registers",
    ),
    ("user/aml/src/pages.rs", "the named pages, at addresses fixed by root::evaluation"),
    ("user/root/src/pages.rs", "the named pages: windows and kernel pages made by rt"),
    ("user/vmm/src/pages.rs", "the named pages, at addresses fixed by vmm::control"),
];

/// Lines a file may have; tables are exempt.
const WALL: usize = 600;

/// Files that are tables.
const TABLES: &[&str] = &[];

/// Rooms where no panic may be written.
const NO_PANIC: &[&str] = &["abi/", "boot/", "kernel/"];

/// Words that panic, and the assertions that are left to the compiler when constant.
const PANICS: &[&str] =
    &[".unwrap()", ".expect(", "panic!(", "unreachable!(", "todo!(", "unimplemented!("];

/// Crates the design wants in kernel rooms instead of code of our own.
const WANTED_CRATES: &[&str] =
    &["x86_64", "raw-cpuid", "multiboot2", "spin", "bitflags", "acpi", "log"];

/// A tracked text file.
pub struct Source {
    /// Its path from the top of the checkout.
    pub path: String,
    /// Its content.
    pub text: String,
}

/// All text files of the checkout, whether committed yet or not.
pub fn all() -> Result<Vec<Source>> {
    let root = desk::root();
    let mut git = Command::new("git");
    git.args(["ls-files", "--cached", "--others", "--exclude-standard"]).current_dir(&root);
    let mut sources = Vec::new();
    for path in tools::output(&mut git).context("the list of files")?.lines() {
        // Binary files and files deleted but not committed have no text.
        if let Ok(text) = fs::read_to_string(root.join(path)) {
            sources.push(Source { path: path.to_string(), text });
        }
    }
    Ok(sources)
}

impl Source {
    fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    fn starts_with_any(&self, folders: &[&str]) -> bool {
        folders.iter().any(|folder| self.path.starts_with(folder))
    }

    /// Lines with their numbers up to the tests, comments left out.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let whole_file = self.path.ends_with("tests.rs") || self.path.contains("/tests/");
        let lines = if whole_file { "" } else { self.text.as_str() };
        let until_tests = lines.lines().take_while(|line| !line.contains("cfg(test)"));
        until_tests
            .enumerate()
            .map(|(index, line)| (index + 1, line.split("//").next().unwrap_or_default()))
            .filter(|(_, line)| !line.trim().is_empty())
    }
}

/// Counted lines of code: without blank lines, comments and tests.
pub fn code_lines(source: &Source) -> usize {
    source.code().count()
}

/// Counted lines of tests.
pub fn test_lines(source: &Source) -> usize {
    let filled = source.text.lines().filter(|line| {
        let line = line.trim();
        !line.is_empty() && !line.starts_with("//")
    });
    filled.count().saturating_sub(code_lines(source))
}

/// `unsafe` outside its rooms.
pub fn unsafe_list(sources: &[Source]) -> Vec<String> {
    let may = |source: &&Source| {
        source.starts_with_any(UNSAFE_FOLDERS)
            || UNSAFE_FILES.iter().any(|(path, _)| *path == source.path)
    };
    let mut found = Vec::new();
    for source in sources.iter().filter(|source| source.is_rust() && !may(source)) {
        for (number, line) in source.code() {
            let mut after = line.split("unsafe").skip(1).map(str::trim_start);
            let starts = |rest: &str| {
                ["{", "fn ", "impl", "extern", "(no_mangle", "(link_section", "(naked"]
                    .iter()
                    .any(|word| rest.starts_with(word))
            };
            if after.any(starts) && !line.contains('"') {
                found.push(format!("{}:{number}: {}", source.path, line.trim()));
            }
        }
    }
    for room in ROOMS.iter().filter(|room| !UNSAFE_FOLDERS.contains(&&*format!("{}/", room.folder)))
    {
        let exempt = matches!(
            room.name,
            "arch"
                | "kernel"
                | "root"
                | "vmm"
                | "aml"
                | "guests"
                | "multiboot"
                | "small"
                | "hello"
                | "suite"
                | "sleeper"
                | "bench"
                | "victim"
        );
        for file in ["lib.rs", "main.rs"] {
            let path = format!("{}/src/{file}", room.folder);
            let forbids = |source: &Source| source.text.contains("#![forbid(unsafe_code)]");
            if let Some(source) = sources.iter().find(|source| source.path == path)
                && !forbids(source)
                && !exempt
            {
                found.push(format!("{path}: #![forbid(unsafe_code)] is missing"));
            }
        }
    }
    found
}

/// Files behind the wall.
pub fn long_files(sources: &[Source]) -> Vec<String> {
    let rooms = sources.iter().filter(|source| {
        source.is_rust() && !source.path.starts_with("tests/") && !TABLES.contains(&&*source.path)
    });
    rooms
        .map(|source| (source.text.lines().count(), &source.path))
        .filter(|(lines, _)| *lines > WALL)
        .map(|(lines, path)| format!("{path}: {lines} lines; {WALL} is the wall"))
        .collect()
}

/// Panics written in kernel rooms.
pub fn panics(sources: &[Source]) -> Vec<String> {
    let mut found = Vec::new();
    for source in sources.iter().filter(|s| s.is_rust() && s.starts_with_any(NO_PANIC)) {
        for (number, line) in source.code() {
            if PANICS.iter().any(|word| line.contains(word)) {
                found.push(format!("{}:{number}: {}", source.path, line.trim()));
            }
        }
    }
    found
}

/// Lints allowed for a whole module instead of one item.
pub fn wide_allowances(sources: &[Source]) -> Vec<String> {
    let mut found = Vec::new();
    for source in sources.iter().filter(|source| source.is_rust()) {
        // A file listed for its `unsafe` says so for the whole file.
        let listed = UNSAFE_FILES.iter().any(|(path, _)| *path == source.path);
        for (number, line) in source.code() {
            let line = line.trim_start();
            if line.starts_with("#![allow") && !(listed && line.contains("unsafe_code")) {
                found.push(format!("{}:{number}: {}", source.path, line.trim()));
            }
        }
    }
    found
}

/// Absolute paths of somebody's machine.
pub fn machine_paths(sources: &[Source]) -> Vec<String> {
    let mut found = Vec::new();
    for source in sources.iter().filter(|source| !source.path.ends_with(".lock")) {
        for (index, line) in source.text.lines().enumerate() {
            if names_machine_path(line) {
                found.push(format!("{}:{}: {}", source.path, index + 1, line.trim()));
            }
        }
    }
    found
}

fn names_machine_path(line: &str) -> bool {
    // Spelled apart, or this very table would be found.
    let tops = ["work", "farm", "root", "home", "tmp"].map(|top| format!("/{top}/"));
    tops.iter().any(|top| {
        line.match_indices(top.as_str()).any(|(at, _)| {
            let before = line.get(..at).and_then(|text| text.chars().next_back());
            !before.is_some_and(|c| c.is_alphanumeric() || "._-}*~)".contains(c))
        })
    })
}

/// `syscalls` naming the machine, by whatever road.
pub fn syscalls_name_arch(sources: &[Source]) -> Vec<String> {
    let mut found = Vec::new();
    let rooms = sources.iter().filter(|s| s.is_rust() && s.path.starts_with("kernel/syscalls/src"));
    for source in rooms {
        for (number, line) in source.code() {
            if line.contains("arch::") || line.contains("use arch") || line.contains("target_arch")
            {
                found.push(format!("{}:{number}: {}", source.path, line.trim()));
            }
        }
    }
    found
}

/// Crates the design wants that no room uses and no decision page explains away.
pub fn design_crates(sources: &[Source]) -> Vec<String> {
    let manifests = sources.iter().filter(|source| source.path.ends_with("Cargo.toml"));
    let used: Vec<_> = manifests.flat_map(|source| layers::dependencies(&source.text)).collect();
    let explained = |name: &str| {
        let quoted = format!("`{name}`");
        let mut pages = sources.iter().filter(|s| s.path.starts_with("docs/decisions/"));
        pages.any(|page| page.text.contains(&quoted))
    };
    let absent = WANTED_CRATES.iter().filter(|name| !used.iter().any(|u| u == *name));
    absent
        .filter(|name| !explained(name))
        .map(|name| format!("{name}: no room uses it and no decision page says why not"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(path: &str, text: &str) -> Vec<Source> {
        vec![Source { path: path.to_string(), text: text.to_string() }]
    }

    #[test]
    fn unsafe_is_found_where_it_must_not_be() {
        let block = "fn f() { unsafe { g() } }\n";
        assert_eq!(unsafe_list(&source("kernel/objects/src/pd.rs", block)).len(), 1);
        assert!(unsafe_list(&source("kernel/sync/src/lock.rs", block)).is_empty());
        assert!(unsafe_list(&source("kernel/objects/src/pd.rs", "// unsafe { x }\n")).is_empty());
        let crate_top = "//! Duty.\n";
        assert_eq!(unsafe_list(&source("abi/src/lib.rs", crate_top)).len(), 1);
    }

    #[test]
    fn panics_in_tests_do_not_count() {
        let text = "fn f() {}\n#[cfg(test)]\nmod tests { fn g() { x.unwrap() } }\n";
        assert!(panics(&source("abi/src/x.rs", text)).is_empty());
        assert_eq!(panics(&source("abi/src/x.rs", "let a = x.unwrap();\n")).len(), 1);
        assert!(panics(&source("user/x.rs", "let a = x.unwrap();\n")).is_empty());
    }

    #[test]
    fn machine_paths_are_told_from_rooms() {
        let top = "/root";
        assert!(names_machine_path(&format!("see {top}/x")));
        assert!(!names_machine_path("user/root/src/main.rs"));
        assert!(!names_machine_path("target/hematite"));
    }

    #[test]
    fn the_wall_stands() {
        let long = "x\n".repeat(WALL + 1);
        assert_eq!(long_files(&source("abi/src/x.rs", &long)).len(), 1);
        assert!(long_files(&source("tests/src/x.rs", &long)).is_empty());
    }

    #[test]
    fn tests_that_documents_name_exist() {
        let sources = all().unwrap();
        for page in ["docs/vcpu-interrupts.md", "docs/threads.md"] {
            let text = fs::read_to_string(desk::root().join(page)).unwrap();
            let mut named = 0;
            for line in text.lines().filter(|line| line.starts_with('|')) {
                let cell = line.trim_end_matches('|').rsplit('|').next().unwrap();
                for name in cell.split('`').skip(1).step_by(2) {
                    let function = format!("fn {name}()");
                    let found = sources.iter().any(|source| source.text.contains(&function))
                        || driver::stories::all().any(|story| story.name == name);
                    assert!(found, "{page}: there is no test {name}");
                    named += 1;
                }
            }
            assert!(named > 10, "{page}: {named} tests");
        }
    }
}
