//! The kernel's stack is deep enough for everything it does.
//!
//! A CPU has one kernel stack, with a page below it that is not there. This check adds up the frames along the
//! call graph of the image, from where a CPU comes in to the deepest function, and wants a quarter of the stack left
//! (docs/decisions/0082-stack-depth.md).

use crate::call_graph::{Graph, Node};
use crate::no_panic::{LOOP, entries, kernel_graph, name};
use anyhow::{Context, Result, bail};
use std::collections::BTreeSet;

/// Bytes that the deepest way may use, of the 32 KiB of `STACK` in kernel/arch/src/metal/layout.rs.
const LIMIT: u64 = 24 << 10;

/// Calls through pointers that may lie on top of each other; each may go to any function whose address is known.
const INDIRECT: usize = 3;

/// Where the first processor, which leaves the large stack it booted on, and the others come to their own stack.
const STARTS: &[&str] = &["arch::metal::smp::on_own_stack::arrive", "arch::metal::smp::enter"];
/// What runs there calls this through a pointer that it was given, and this the loop.
const HANDOVER: &[&str] =
    &["arch::metal::smp::on_own_stack::arrive", "arch::metal::bring_up::this_cpu"];
const GIVEN: &str = "kernel::state::enter";
/// The first stack's function: nobody comes back to it.
const BEFORE: &str = "kernel_main";

/// The ways out to user mode. A call that is settled at once uses the stack below them; all other entries give the
/// stack back to the loop.
const DOORS: &[&str] = &["leave_by_sysret", "leave_by_iret"];
const QUICK: &str = "quick_call";

/// An exception in the kernel: an instruction that may fail, or the last words.
const EXCEPTION: &str = "trap_fatal";
/// Bytes that the processor and the stub push before that.
const PUSHED: u64 = 72;

/// What is wrong with the built kernel.
pub fn findings() -> Result<Vec<String>> {
    let mut graph = kernel_graph()?;
    let quick = only(&graph, QUICK)?;
    for door in DOORS {
        let door = only(&graph, door)?;
        graph.nodes[door].calls = BTreeSet::from([quick]);
    }
    let starts = STARTS.iter().map(|start| only(&graph, start)).collect::<Result<Vec<_>>>()?;
    // The processor comes to the entries by itself.
    for entry in entries()? {
        for place in graph.named(&entry).collect::<Vec<_>>() {
            graph.nodes[place].taken = false;
        }
    }
    let given = only(&graph, GIVEN)?;
    for from in HANDOVER {
        let from = only(&graph, from)?;
        graph.nodes[from].calls.insert(given);
    }
    let ends = [only(&graph, LOOP)?, only(&graph, BEFORE)?];
    never_again(&mut graph, &ends);
    judge(&graph, &starts, only(&graph, EXCEPTION)?, LIMIT)
}

/// The loop never returns and is entered once, so no call through a pointer leads to what calls it.
fn never_again(graph: &mut Graph, ends: &[usize]) {
    let mut queue = ends.to_vec();
    let mut seen = BTreeSet::new();
    while let Some(at) = queue.pop() {
        if seen.insert(at) {
            graph.nodes[at].taken = false;
            let callers =
                graph.nodes.iter().enumerate().filter(|(_, node)| node.calls.contains(&at));
            queue.extend(callers.map(|(caller, _)| caller));
        }
    }
}

/// The node with a name.
fn only(graph: &Graph, name: &str) -> Result<usize> {
    graph.named(name).next().with_context(|| format!("{name} is not in the image"))
}

/// One line for each start from which the stack may grow beyond `limit`, an exception at the deepest point included.
fn judge(graph: &Graph, starts: &[usize], exception: usize, limit: u64) -> Result<Vec<String>> {
    let depths = Depths::new(graph)?;
    let (after, more) = depths.deepest(exception);
    let mut found = Vec::new();
    for start in starts {
        let (way, bytes) = depths.deepest(*start);
        let bytes = bytes + PUSHED + more;
        if bytes > limit {
            let names: Vec<_> =
                way.iter().chain(&after).map(|at| step(&graph.nodes[*at])).collect();
            found.push(format!("{bytes} bytes of stack: {}", names.join(" -> ")));
        }
    }
    Ok(found)
}

fn step(node: &Node) -> String {
    format!("{} ({})", name(node), node.frame)
}

/// The most stack below each node, by the number of calls through pointers on the way.
struct Depths<'a> {
    graph: &'a Graph,
    /// Bytes and the next node, if there is one.
    below: Vec<Vec<(u64, Option<usize>)>>,
}

impl<'a> Depths<'a> {
    fn new(graph: &'a Graph) -> Result<Self> {
        let order = callees_first(graph)?;
        let mut depths = Depths { graph, below: Vec::new() };
        for round in 0..=INDIRECT {
            let mut most = vec![(0, None); graph.nodes.len()];
            let taken = |at: &usize| graph.nodes[*at].taken;
            let beyond = round.checked_sub(1).map(|before| {
                let known = (0..graph.nodes.len()).filter(taken);
                known.map(|at| (depths.below[before][at].0, Some(at))).max().unwrap_or((0, None))
            });
            for at in &order {
                let node = &graph.nodes[*at];
                let direct = node.calls.iter().map(|to| (most[*to].0, Some(*to))).max();
                let through = beyond.filter(|_| node.indirect);
                let (bytes, next) = direct.max(through).unwrap_or((0, None));
                most[*at] = (bytes + node.frame, next);
            }
            depths.below.push(most);
        }
        Ok(depths)
    }

    /// The nodes of the deepest way from `root`, and its bytes.
    fn deepest(&self, root: usize) -> (Vec<usize>, u64) {
        let (mut way, mut round, mut at) = (vec![root], INDIRECT, root);
        while let Some((_, Some(next))) = self.below[round].get(at) {
            if !self.graph.nodes[at].calls.contains(next) {
                round -= 1;
            }
            way.push(*next);
            at = *next;
        }
        let bytes = way.iter().map(|at| self.graph.nodes[*at].frame).sum();
        (way, bytes)
    }
}

/// The nodes, each behind all it calls directly.
///
/// # Errors
/// When functions call each other in a circle: then no way is the deepest.
fn callees_first(graph: &Graph) -> Result<Vec<usize>> {
    let mut order = Vec::new();
    let mut seen = vec![Seen::Not; graph.nodes.len()];
    for root in 0..graph.nodes.len() {
        let mut path = vec![root];
        while let Some(&at) = path.last() {
            if seen[at] == Seen::Not {
                seen[at] = Seen::Open;
                for next in &graph.nodes[at].calls {
                    match seen[*next] {
                        Seen::Not => path.push(*next),
                        Seen::Open => bail!(
                            "{} and {} call each other: how deep?",
                            name(&graph.nodes[at]),
                            name(&graph.nodes[*next])
                        ),
                        Seen::Done => {}
                    }
                }
            } else {
                path.pop();
                if seen[at] == Seen::Open {
                    seen[at] = Seen::Done;
                    order.push(at);
                }
            }
        }
    }
    Ok(order)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Seen {
    Not,
    Open,
    Done,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nodes from (frame, called, indirect, taken), named by their places.
    fn graph(nodes: &[(u64, &[usize], bool, bool)]) -> Graph {
        let node =
            |(at, (frame, calls, indirect, taken)): (usize, &(u64, &[usize], bool, bool))| Node {
                names: vec![format!("f{at}")],
                calls: calls.iter().copied().collect(),
                indirect: *indirect,
                taken: *taken,
                frame: *frame,
            };
        Graph { nodes: nodes.iter().enumerate().map(node).collect() }
    }

    #[test]
    fn the_deepest_way_counts_and_an_exception_comes_on_top() {
        let nodes = graph(&[
            (100, &[1, 2], false, false),
            (10, &[3], false, false),
            (50, &[], false, false),
            (30, &[], false, false),
            (200, &[], false, false),
        ]);
        let used = 100 + 50 + PUSHED + 200;
        assert_eq!(judge(&nodes, &[0], 4, used).unwrap(), Vec::<String>::new());
        let found = judge(&nodes, &[0], 4, used - 1).unwrap();
        assert_eq!(found, [format!("{used} bytes of stack: f0 (100) -> f2 (50) -> f4 (200)")]);
    }

    #[test]
    fn a_call_through_a_pointer_goes_to_the_deepest_that_it_may_mean() {
        let nodes = graph(&[
            (1, &[], true, false),
            (10, &[2], false, true),
            (20, &[], true, false),
            (5, &[], false, true),
            (0, &[], false, false),
        ]);
        let (way, bytes) = Depths::new(&nodes).unwrap().deepest(0);
        // As often as such calls may lie on top of each other.
        assert_eq!(way, [0, 1, 2, 1, 2, 1, 2]);
        assert_eq!(bytes, 1 + 30 * INDIRECT as u64);
    }

    #[test]
    fn who_leads_to_the_loop_is_not_called_again() {
        let mut nodes =
            graph(&[(1, &[1], false, true), (1, &[2], false, true), (1, &[], true, true)]);
        never_again(&mut nodes, &[1]);
        let taken: Vec<_> = nodes.nodes.iter().map(|node| node.taken).collect();
        assert_eq!(taken, [false, false, true]);
    }

    #[test]
    fn a_circle_has_no_depth() {
        let nodes = graph(&[(1, &[1], false, false), (1, &[0], false, false)]);
        let error = Depths::new(&nodes).err().unwrap().to_string();
        assert!(error.contains("f1 and f0 call each other"), "{error}");
    }
}
