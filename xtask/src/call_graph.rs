//! Who calls whom in a linked image, read back from its machine code.
//!
//! A node is what lies between two code symbols. An edge is a call or jump that leaves it. What the
//! code alone does not tell is taken for the worst (docs/decisions/0060-panic-reachability.md).

use crate::elf::{self, EXECUTE, Elf, Segment, WRITE};
use crate::symbols::Symbol;
use anyhow::{Context, Result};
use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic, OpKind, Register};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// A function or a stretch of assembly.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// Its names as in the source; more than one if the linker folded equal functions.
    pub names: Vec<String>,
    /// The nodes it calls or jumps to.
    pub calls: BTreeSet<usize>,
    /// It calls or jumps to an address that is only known when it runs.
    pub indirect: bool,
    /// Its address stands somewhere as a value, so an indirect call may go there.
    pub taken: bool,
    /// Bytes of stack it uses, at most: what it pushes and sets aside, and the return address.
    pub frame: u64,
}

/// All nodes, in the order of their addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Graph {
    /// The nodes; edges are places in here.
    pub nodes: Vec<Node>,
}

impl Graph {
    /// The nodes with this name.
    pub fn named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = usize> + 'a {
        let has = move |node: &Node| node.names.iter().any(|known| known == name);
        self.nodes.iter().enumerate().filter(move |(_, node)| has(node)).map(|(at, _)| at)
    }

    /// For each wanted node that can be reached, one shortest way there, from a root.
    /// A wanted node is not looked into.
    pub fn ways(&self, roots: &[usize], wanted: impl Fn(&Node) -> bool) -> Vec<Vec<usize>> {
        let mut from: BTreeMap<usize, Option<usize>> = BTreeMap::new();
        let mut queue = VecDeque::new();
        for root in roots {
            if from.insert(*root, None).is_none() {
                queue.push_back(*root);
            }
        }
        let mut indirect_seen = false;
        let mut found = Vec::new();
        while let Some(at) = queue.pop_front() {
            let Some(node) = self.nodes.get(at) else { continue };
            if wanted(node) {
                found.push(way(&from, at));
                continue;
            }
            let mut next: Vec<usize> = node.calls.iter().copied().collect();
            // The first indirect call reaches all that any can.
            if node.indirect && !indirect_seen {
                indirect_seen = true;
                next.extend((0..self.nodes.len()).filter(|n| self.nodes[*n].taken));
            }
            for target in next {
                from.entry(target).or_insert_with(|| {
                    queue.push_back(target);
                    Some(at)
                });
            }
        }
        found
    }

    /// Reads the code of a linked ELF64 file.
    ///
    /// # Errors
    /// When the file is none, or has no code symbols.
    pub fn read(file: &[u8], symbols: &[Symbol]) -> Result<Self> {
        let elf = Elf::read(file)?;
        Reader::new(file, &elf, symbols)?.read()
    }
}

/// The nodes from a root to `end`.
fn way(from: &BTreeMap<usize, Option<usize>>, end: usize) -> Vec<usize> {
    let mut all = vec![end];
    let mut at = end;
    while let Some(Some(before)) = from.get(&at) {
        all.push(*before);
        at = *before;
    }
    all.reverse();
    all
}

struct Reader<'a> {
    file: &'a [u8],
    elf: &'a Elf,
    /// Where each node begins, and whether a compiler made it.
    begins: BTreeMap<u64, usize>,
    compiled: Vec<bool>,
    graph: Graph,
}

impl<'a> Reader<'a> {
    fn new(file: &'a [u8], elf: &'a Elf, symbols: &[Symbol]) -> Result<Self> {
        let mut by_address: BTreeMap<u64, (Vec<String>, bool)> = BTreeMap::new();
        for symbol in symbols.iter().filter(|s| code_at(elf, s.address).is_some()) {
            let entry = by_address.entry(symbol.address).or_default();
            entry.0.push(format!("{:#}", rustc_demangle::demangle(&symbol.name)));
            entry.1 |= symbol.function;
        }
        by_address.first_key_value().context("no code symbols: is the image stripped?")?;
        let mut reader = Self {
            file,
            elf,
            begins: BTreeMap::new(),
            compiled: Vec::new(),
            graph: Graph::default(),
        };
        for (address, (names, compiled)) in by_address {
            reader.begins.insert(address, reader.graph.nodes.len());
            reader.graph.nodes.push(Node { names, ..Node::default() });
            reader.compiled.push(compiled);
        }
        Ok(reader)
    }

    fn read(mut self) -> Result<Graph> {
        let begins: Vec<u64> = self.begins.keys().copied().collect();
        for (place, begin) in begins.iter().enumerate() {
            let segment = code_at(self.elf, *begin).context("no code there")?;
            let end = segment.vaddr + segment.filesz;
            let end = begins.get(place + 1).map_or(end, |next| end.min(*next));
            self.node(place, *begin, end)?;
        }
        for segment in &self.elf.segments {
            let content = self.file.get(segment.bytes()?).context("truncated")?;
            for word in content.as_chunks::<8>().0 {
                self.take(u64::from_le_bytes(*word));
            }
        }
        Ok(self.graph)
    }

    /// Reads the instructions of one node.
    fn node(&mut self, place: usize, begin: u64, end: u64) -> Result<()> {
        let code = self.bytes(begin, end).context("code out of range")?;
        let mut falls_through = true;
        let mut frame = RETURN;
        for instruction in Decoder::with_ip(64, code, begin, DecoderOptions::NONE) {
            for value in values(&instruction) {
                self.take(value);
            }
            frame += set_aside(&instruction);
            // What fills the space behind the last instruction is never reached.
            falls_through |= !matches!(instruction.mnemonic(), Mnemonic::Nop | Mnemonic::Int3);
            match instruction.flow_control() {
                FlowControl::Call
                | FlowControl::ConditionalBranch
                | FlowControl::XbeginXabortXend => {
                    self.edge(place, instruction.near_branch_target());
                }
                FlowControl::UnconditionalBranch => {
                    self.edge(place, instruction.near_branch_target());
                    falls_through = false;
                }
                FlowControl::IndirectCall => self.indirect(place, &instruction, begin..end),
                FlowControl::IndirectBranch => {
                    self.indirect(place, &instruction, begin..end);
                    falls_through = false;
                }
                FlowControl::Return | FlowControl::Exception => falls_through = false,
                FlowControl::Next | FlowControl::Interrupt => {}
            }
        }
        if let Some(node) = self.graph.nodes.get_mut(place) {
            node.frame = frame;
        }
        // A compiler's function ends where it ends; assembly may run into the next label.
        if falls_through && self.compiled.get(place) == Some(&false) {
            self.edge(place, end);
        }
        Ok(())
    }

    fn edge(&mut self, place: usize, target: u64) {
        if let Some((_, to)) = self.begins.range(..=target).next_back()
            && *to != place
            && code_at(self.elf, target).is_some()
            && let Some(node) = self.graph.nodes.get_mut(place)
        {
            node.calls.insert(*to);
        }
    }

    /// A call or jump through a register or memory. Two kinds are known: through a constant of the
    /// image (the linker's table of addresses), and through a table of places in the same node.
    fn indirect(&mut self, place: usize, code: &Instruction, own: std::ops::Range<u64>) {
        if code.op0_kind() == OpKind::Memory {
            let table = code.memory_displacement64();
            let target = self.constant(table);
            let plain = matches!(code.memory_base(), Register::None | Register::RIP);
            match target {
                Some(target) if plain && code.memory_index() == Register::None => {
                    return self.edge(place, target);
                }
                Some(target) if plain && own.contains(&target) && target != own.start => return,
                _ => {}
            }
        }
        if let Some(node) = self.graph.nodes.get_mut(place) {
            node.indirect = true;
        }
    }

    /// Notes that an address stands somewhere as a value.
    fn take(&mut self, value: u64) {
        if let Some(place) = self.begins.get(&value)
            && let Some(node) = self.graph.nodes.get_mut(*place)
        {
            node.taken = true;
        }
    }

    /// The word at an address that nothing can write.
    fn constant(&self, address: u64) -> Option<u64> {
        let segment = self.elf.segments.iter().find(|s| holds(s, address))?;
        if segment.flags & WRITE != 0 {
            return None;
        }
        let at = segment.offset + (address - segment.vaddr);
        elf::long(self.file, usize::try_from(at).ok()?).ok()
    }

    fn bytes(&self, begin: u64, end: u64) -> Option<&'a [u8]> {
        let segment = code_at(self.elf, begin)?;
        let at = usize::try_from(segment.offset + (begin - segment.vaddr)).ok()?;
        self.file.get(at..at + usize::try_from(end.checked_sub(begin)?).ok()?)
    }
}

fn holds(segment: &Segment, address: u64) -> bool {
    address.checked_sub(segment.vaddr).is_some_and(|at| at < segment.filesz)
}

/// The executable segment at an address.
fn code_at(elf: &Elf, address: u64) -> Option<&Segment> {
    elf.segments.iter().find(|s| s.flags & EXECUTE != 0 && holds(s, address))
}

/// Bytes of a return address.
const RETURN: u64 = 8;

/// Bytes of stack that an instruction takes. The sum over a function is more than it ever has at once, where
/// it has several ways through it.
fn set_aside(code: &Instruction) -> u64 {
    let on_stack = code.op0_kind() == OpKind::Register && code.op0_register() == Register::RSP;
    let number = || code.try_immediate(1).unwrap_or_default();
    match code.mnemonic() {
        Mnemonic::Push | Mnemonic::Pushfq => 8,
        Mnemonic::Sub if on_stack => number(),
        // Adding a negative number, which is shorter for 128.
        Mnemonic::Add if on_stack && (number() as i64) < 0 => number().wrapping_neg(),
        // It makes the stack pointer a multiple of a power of two.
        Mnemonic::And if on_stack => number().wrapping_neg(),
        _ => 0,
    }
}

/// The addresses that an instruction names as values: immediates and places in memory.
fn values(code: &Instruction) -> impl Iterator<Item = u64> + '_ {
    (0..code.op_count()).filter_map(|operand| match code.op_kind(operand) {
        OpKind::Memory => Some(code.memory_displacement64()),
        OpKind::Immediate32 | OpKind::Immediate32to64 | OpKind::Immediate64 => {
            Some(code.immediate(operand))
        }
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::elf::tests::sample;

    const CODE: u64 = 0xffff_ffff_8000_0000;
    const DATA: u64 = CODE + 0x1000;

    fn symbol(at: u64, function: bool, name: &str) -> Symbol {
        Symbol { address: CODE + at, size: 0, function, name: name.to_string() }
    }

    /// The graph of functions at multiples of 16.
    fn graph(code: &[&[u8]], data: &[u64], compiled: bool) -> Graph {
        let mut text = Vec::new();
        let mut symbols = Vec::new();
        for (index, body) in code.iter().enumerate() {
            text.resize(16 * index, 0xcc);
            text.extend_from_slice(body);
            symbols.push(symbol(16 * index as u64, compiled, &format!("f{index}")));
        }
        let data: Vec<u8> = data.iter().flat_map(|word| word.to_le_bytes()).collect();
        let file = sample(CODE, &[(5, CODE, 0, &text), (4, DATA, 0x1000, &data)]);
        Graph::read(&file, &symbols).unwrap()
    }

    const RET: &[u8] = &[0xc3];

    #[test]
    fn calls_and_tail_jumps_are_edges() {
        // call +0x1b (f2), jmp +0x16 (f2 again) from f0; f1 is left alone.
        let found = graph(&[&[0xe8, 0x1b, 0, 0, 0, 0xe9, 0x16, 0, 0, 0], RET, RET], &[0], true);
        assert_eq!(found.nodes[0].calls, BTreeSet::from([2]));
        assert!(found.nodes.iter().all(|node| !node.indirect && !node.taken));
    }

    #[test]
    fn a_call_through_a_constant_is_an_edge() {
        // call [rip + 0xffa]: the word at DATA.
        let found = graph(&[&[0xff, 0x15, 0xfa, 0x0f, 0, 0, 0xc3], RET], &[CODE + 16], true);
        assert_eq!(found.nodes[0].calls, BTreeSet::from([1]));
        assert!(!found.nodes[0].indirect);
        assert!(found.nodes[1].taken, "its address stands in the image");
    }

    #[test]
    fn a_call_through_a_register_may_go_anywhere() {
        // call rax; lea rax, [rip + 9] names f2.
        let lea: &[u8] = &[0x48, 0x8d, 0x05, 0x09, 0, 0, 0, 0xc3];
        let found = graph(&[&[0xff, 0xd0, 0xc3], lea, RET], &[0], true);
        assert!(found.nodes[0].indirect);
        let taken: Vec<_> = found.nodes.iter().map(|node| node.taken).collect();
        assert_eq!(taken, [false, false, true]);
        assert_eq!(found.ways(&[0], |node| node.names == ["f2"]), [[0, 2]]);
    }

    #[test]
    fn a_jump_table_into_the_function_itself_is_no_call() {
        // jmp [rax * 8 + DATA], DATA sign-extended from 32 bits.
        let jump: &[u8] = &[0xff, 0x24, 0xc5, 0x00, 0x10, 0x00, 0x80, 0xc3];
        assert!(!graph(&[jump, RET], &[CODE + 7], true).nodes[0].indirect);
        assert!(graph(&[jump, RET], &[CODE + 16], true).nodes[0].indirect);
    }

    #[test]
    fn a_frame_is_what_is_pushed_and_set_aside() {
        // push rbp; sub rsp, 0x30; and rsp, -16; pop rbp; ret.
        let body: &[u8] = &[0x55, 0x48, 0x83, 0xec, 0x30, 0x48, 0x83, 0xe4, 0xf0, 0x5d, 0xc3, 0x90];
        assert_eq!(graph(&[body, RET], &[0], true).nodes[0].frame, 8 + 8 + 0x30 + 16);
        // sub rsp, 0x1000: the long form. add rsp, -128: the short form of setting 128 aside.
        let long: &[u8] = &[0x48, 0x81, 0xec, 0, 0x10, 0, 0, 0x48, 0x83, 0xc4, 0x80, 0xc3];
        assert_eq!(graph(&[long, RET], &[0], true).nodes[0].frame, 8 + 0x1000 + 128);
        // add rsp, 8 gives back; what the linker fills in behind a return leads nowhere.
        let back: &[u8] = &[0x48, 0x83, 0xc4, 8, 0xc3, 0x90, 0x90];
        let found = graph(&[back, RET], &[0], false);
        assert_eq!((found.nodes[0].frame, found.nodes[0].calls.len()), (8, 0));
    }

    #[test]
    fn assembly_runs_into_the_next_label() {
        let nop: &[u8] = &[0x90; 16];
        assert_eq!(graph(&[nop, RET], &[0], false).nodes[0].calls, BTreeSet::from([1]));
        assert!(graph(&[nop, RET], &[0], true).nodes[0].calls.is_empty());
    }
}
