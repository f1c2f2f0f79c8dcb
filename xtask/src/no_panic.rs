//! No panic of the compiler's can be reached once the kernel runs.
//!
//! Every failure of a call, an exit or a trap is a status. The rules over the source text find panics
//! that somebody wrote; this check finds those that the compiler put in: a bounds check that it could
//! not remove, a division. It looks at the image itself, from the entries of the assembly files and
//! the loop they return to (docs/decisions/0060-panic-reachability.md).

use crate::build::PROGRAMS;
use crate::call_graph::{Graph, Node};
use crate::desk;
use crate::symbols;
use anyhow::{Context, Result, bail};
use std::fs;

/// Where the entries' assembly lies.
const ENTRIES: &str = "kernel/arch/src/metal";

/// The loop that every CPU ends up in: the entries come back to it by the stack, which no edge shows.
pub const LOOP: &str = "kernel::run::run_loop";

/// Ways shown; one panic in a busy function is many.
const SHOWN: usize = 12;

/// The ways from an entry to a panic in the built kernel.
pub fn findings() -> Result<Vec<String>> {
    let mut all = entries()?;
    all.push(LOOP.to_string());
    panics(&kernel_graph()?, &all)
}

/// The call graph of the built kernel.
pub fn kernel_graph() -> Result<Graph> {
    let kernel = PROGRAMS.first().context("no kernel")?;
    let path = kernel.path()?;
    let file = fs::read(&path).with_context(|| path.display().to_string())?;
    Graph::read(&file, &symbols::read(&file)?)
}

/// Where the processor enters the kernel: the names that the assembly files give to the linker.
pub fn entries() -> Result<Vec<String>> {
    let mut entries = Vec::new();
    let folder = desk::root().join(ENTRIES);
    for entry in fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "S") {
            entries.extend(globals(&fs::read_to_string(path)?));
        }
    }
    Ok(entries)
}

/// The names that an assembly file gives to the linker.
fn globals(source: &str) -> Vec<String> {
    let lines = source.lines().filter_map(|line| line.trim().strip_prefix(".global "));
    lines.flat_map(|names| names.split(',').map(|name| name.trim().to_string())).collect()
}

/// One line for each way from one of `entries` to a panic.
///
/// # Errors
/// When an entry is not in the image: then nothing was checked.
fn panics(graph: &Graph, entries: &[String]) -> Result<Vec<String>> {
    let mut roots = Vec::new();
    for entry in entries {
        let before = roots.len();
        roots.extend(graph.named(entry));
        if roots.len() == before {
            bail!("the entry {entry} is not in the image");
        }
    }
    // A panic's own way is to the place that calls it.
    let mut found = Vec::new();
    for (place, node) in graph.nodes.iter().enumerate() {
        if is_panic(node) {
            let callers: Vec<_> =
                (0..graph.nodes.len()).filter(|n| graph.nodes[*n].calls.contains(&place)).collect();
            for caller in callers.iter().filter(|caller| !is_panic(&graph.nodes[**caller])) {
                let ways = graph.ways(&roots, |node| std::ptr::eq(node, &graph.nodes[*caller]));
                found.extend(ways.iter().map(|way| {
                    let mut names: Vec<&str> =
                        way.iter().map(|at| name(&graph.nodes[*at])).collect();
                    names.push(name(node));
                    names.join(" -> ")
                }));
            }
        }
    }
    let more = found.len().saturating_sub(SHOWN);
    found.truncate(SHOWN);
    if more > 0 {
        found.push(format!("and {more} more"));
    }
    Ok(found)
}

fn is_panic(node: &Node) -> bool {
    node.names
        .iter()
        .any(|name| name.starts_with("core::panicking::") || name.ends_with("rust_begin_unwind"))
}

pub fn name(node: &Node) -> &str {
    node.names.first().map_or("?", |name| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nodes from (name, called, indirect, taken).
    fn graph(nodes: &[(&str, &[usize], bool, bool)]) -> Graph {
        let node = |(name, calls, indirect, taken): &(&str, &[usize], bool, bool)| Node {
            names: vec![(*name).to_string()],
            calls: calls.iter().copied().collect(),
            indirect: *indirect,
            taken: *taken,
            ..Node::default()
        };
        Graph { nodes: nodes.iter().map(node).collect() }
    }

    fn found(nodes: &[(&str, &[usize], bool, bool)]) -> Vec<String> {
        panics(&graph(nodes), &["entry".to_string()]).unwrap()
    }

    #[test]
    fn a_way_to_a_panic_is_shown_whole() {
        let direct: [(&str, &[usize], bool, bool); 4] = [
            ("entry", &[1], false, false),
            ("a", &[2], false, false),
            ("b", &[3, 0], false, false),
            ("core::panicking::panic_bounds_check", &[], false, false),
        ];
        assert_eq!(found(&direct), ["entry -> a -> b -> core::panicking::panic_bounds_check"]);
    }

    #[test]
    fn a_panic_that_only_start_up_reaches_is_fine() {
        let apart: [(&str, &[usize], bool, bool); 3] = [
            ("entry", &[], false, false),
            ("start", &[0, 2], false, false),
            ("core::panicking::panic", &[], false, false),
        ];
        assert_eq!(found(&apart), Vec::<String>::new());
    }

    #[test]
    fn an_indirect_call_reaches_all_whose_address_is_taken() {
        let nodes = |indirect, taken| -> Vec<String> {
            found(&[
                ("entry", &[], indirect, false),
                ("start", &[2], false, taken),
                ("core::panicking::panic", &[], false, false),
            ])
        };
        assert_eq!(nodes(true, true), ["entry -> start -> core::panicking::panic"]);
        assert_eq!(nodes(true, false), Vec::<String>::new());
        assert_eq!(nodes(false, true), Vec::<String>::new());
    }

    #[test]
    fn an_image_without_its_entries_passes_nothing() {
        let error = panics(&graph(&[]), &["entry".to_string()]).unwrap_err();
        assert!(error.to_string().contains("entry is not in the image"));
        assert_eq!(globals("x:\n.global a, b\n  .global c\n"), ["a", "b", "c"]);
    }
}
