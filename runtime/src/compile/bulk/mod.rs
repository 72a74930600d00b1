//! Rewrites `memory.fill` and `memory.copy` into chunked loops, so that epoch interruption can preempt them.
//!
//! A guest checks its epoch deadline at function entries and loop back-edges, never within an instruction; and these
//! [bulk memory operations](https://webassembly.github.io/spec/core/exec/instructions.html#memory-instructions) are one
//! instruction each, over all of the memory if the guest likes. Before a module is compiled, each of them that may be
//! long is replaced by a call of a function that is added to the module and does the same in pieces. Its effect on
//! memory and its traps are those of the specification.
//!
//! The other bulk operations are short: a module's own data and the limit of tables bound them.

#![allow(
    clippy::cast_possible_truncation,
    reason = "an accepted module is smaller than 4 GiB, and so is every count and offset in it"
)]

mod pieces;
#[cfg(test)]
mod tests;

use std::{borrow::Cow, collections::BTreeSet, ops::Range};

use wasm_encoder::{
    ComponentSectionId, Encode, Instruction, NameMap, NameSection, RawSection, Section as _, SectionId,
};
use wasmparser::{
    BinaryReader, BinaryReaderError, CodeSectionReader, CustomSectionReader, FunctionBody, MemoryType,
    Operator, OperatorsReader, Parser, Payload, TypeRef,
};

use self::pieces::{Bulk, PIECE};
use crate::Kind;

/// Deepest nesting of components. Those that tools make have two or three levels.
const LEVELS: usize = 32;
/// Length of a module's or component's preamble: the magic bytes, the version, the layer.
const PREAMBLE: usize = 8;
/// Prefix of custom sections that name instructions by their offset in a function, which the rewrite changes.
const BY_OFFSET: &str = "metadata.code.";

/// A module could not be rewritten.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BulkError {
    /// It does not parse as what its first bytes claim.
    #[error(transparent)]
    Malformed(#[from] BinaryReaderError),
    /// Each level costs stack and a copy.
    #[error("its components are nested more than {LEVELS} deep")]
    TooDeep,
}

/// Rewrites the long instructions of `wasm`; borrows it if it has none.
pub(crate) fn in_pieces(kind: Kind, wasm: &[u8]) -> Result<Cow<'_, [u8]>, BulkError> {
    let split = match kind {
        Kind::Core => module(wasm)?,
        Kind::Component => component(wasm, LEVELS)?,
    };
    Ok(split.map_or(Cow::Borrowed(wasm), Cow::Owned))
}

/// Rewrites the modules of a component, at any level; `None` if none has long instructions.
fn component(wasm: &[u8], levels: usize) -> Result<Option<Vec<u8>>, BulkError> {
    const MODULE: u8 = ComponentSectionId::CoreModule as u8;
    const COMPONENT: u8 = ComponentSectionId::Component as u8;

    let levels = levels.checked_sub(1).ok_or(BulkError::TooDeep)?;
    let mut is_split = false;
    let split = map_sections(wasm, |id, data| {
        let inner = match id {
            MODULE => module(data)?,
            COMPONENT => component(data, levels)?,
            _ => None,
        };
        is_split |= inner.is_some();
        Ok(Some(inner.map_or(Cow::Borrowed(data), Cow::Owned)))
    })?;
    Ok(is_split.then_some(split))
}

/// Rewrites a module; `None` if it has no long instructions.
fn module(wasm: &[u8]) -> Result<Option<Vec<u8>>, BulkError> {
    const CUSTOM: u8 = SectionId::Custom as u8;
    const TYPE: u8 = SectionId::Type as u8;
    const FUNCTION: u8 = SectionId::Function as u8;
    const CODE: u8 = SectionId::Code as u8;

    let found = Found::in_module(wasm)?;
    let Found { types, functions, memories, bulk, long } = &found;
    if bulk.is_empty() {
        return Ok(None);
    }
    let mut long = long.iter();
    let mut split = map_sections(wasm, |id, data| {
        Ok(Some(match id {
            TYPE => with_items(data, bulk.iter().map(|bulk| bulk.ty(memories)))?.into(),
            FUNCTION => with_items(data, (0..bulk.len() as u32).map(|at| encoded(types + at)))?.into(),
            CODE => found.code(data, &mut long)?.into(),
            CUSTOM if is_by_offset(data)? => return Ok(None),
            _ => data.into(),
        }))
    })?;
    let mut names = NameMap::new();
    bulk.iter().zip(*functions..).for_each(|(bulk, function)| names.append(function, bulk.name()));
    let mut section = NameSection::new();
    section.functions(&names);
    section.append_to(&mut split);
    Ok(Some(split))
}

/// Maps the sections of a module or component; `None` drops one.
fn map_sections<'a>(
    wasm: &'a [u8],
    mut section: impl FnMut(u8, &'a [u8]) -> Result<Option<Cow<'a, [u8]>>, BulkError>,
) -> Result<Vec<u8>, BulkError> {
    let mut reader = BinaryReader::new(wasm, 0);
    let mut written = reader.read_bytes(PREAMBLE)?.to_vec();
    while !reader.eof() {
        let id = reader.read_u8()?;
        let mut data = reader.read_reader()?;
        if let Some(data) = section(id, data.read_bytes(data.bytes_remaining())?)? {
            RawSection { id, data: &data }.append_to(&mut written);
        }
    }
    Ok(written)
}

/// Appends items to a section that is a list.
fn with_items(data: &[u8], more: impl ExactSizeIterator<Item = Vec<u8>>) -> Result<Vec<u8>, BulkError> {
    let mut reader = BinaryReader::new(data, 0);
    let count = reader.read_var_u32()?;
    let mut written = Vec::with_capacity(data.len());
    count.saturating_add(more.len() as u32).encode(&mut written);
    written.extend(reader.read_bytes(reader.bytes_remaining())?);
    more.for_each(|item| written.extend(item));
    Ok(written)
}

fn encoded(item: impl Encode) -> Vec<u8> {
    let mut bytes = Vec::new();
    item.encode(&mut bytes);
    bytes
}

/// The result of the first pass over a module: all that is needed to add functions to it.
#[derive(Default)]
struct Found {
    types: u32,
    functions: u32,
    memories: Vec<MemoryType>,
    /// One of each kind of its long instructions. The added functions have this order.
    bulk: BTreeSet<Bulk>,
    /// The long instructions of each function body, in the order of the bodies.
    long: Vec<Vec<Long>>,
}

impl Found {
    fn in_module(wasm: &[u8]) -> Result<Self, BulkError> {
        let mut found = Self::default();
        for payload in Parser::new(0).parse_all(wasm) {
            match payload? {
                Payload::TypeSection(groups) => {
                    for group in groups {
                        found.types += group?.types().len() as u32;
                    }
                }
                Payload::ImportSection(imports) => {
                    for import in imports.into_imports() {
                        match import?.ty {
                            TypeRef::Func(_) | TypeRef::FuncExact(_) => found.functions += 1,
                            TypeRef::Memory(memory) => found.memories.push(memory),
                            TypeRef::Table(_) | TypeRef::Global(_) | TypeRef::Tag(_) => {}
                        }
                    }
                }
                Payload::FunctionSection(functions) => {
                    for function in functions {
                        function?;
                        found.functions += 1;
                    }
                }
                Payload::MemorySection(memories) => {
                    for memory in memories {
                        found.memories.push(memory?);
                    }
                }
                Payload::CodeSectionEntry(body) => {
                    // An index of no memory makes the module invalid, which the compiler will report.
                    let is_there = |memory: u32| (memory as usize) < found.memories.len();
                    let mut long = long(&body)?;
                    long.retain(|(_, bulk)| bulk.memories().into_iter().all(is_there));
                    found.bulk.extend(long.iter().map(|(_, bulk)| *bulk));
                    found.long.push(long);
                }
                _ => {}
            }
        }
        Ok(found)
    }

    /// Rewrites a code section: replaces long instructions by calls, and appends the bodies of the added functions.
    /// Advances `long` by one item for each body.
    fn code<'a>(
        &self,
        section: &[u8],
        long: &mut impl Iterator<Item = &'a Vec<Long>>,
    ) -> Result<Vec<u8>, BulkError> {
        let Self { functions, memories, bulk: kinds, .. } = self;
        let bodies = CodeSectionReader::new(BinaryReader::new(section, 0))?;
        let mut code = Vec::with_capacity(section.len());
        bodies.count().saturating_add(kinds.len() as u32).encode(&mut code);
        for (body, long) in bodies.into_iter().zip(long) {
            let body = body?;
            let bytes = body.as_bytes();
            let mut written = Vec::with_capacity(bytes.len());
            let mut end = 0;
            for (place, bulk) in long {
                written.extend(&bytes[end..place.start]);
                let function = functions + kinds.range(..bulk).count() as u32;
                Instruction::Call(function).encode(&mut written);
                end = place.end;
            }
            written.extend(&bytes[end..]);
            written.encode(&mut code);
        }
        for bulk in kinds {
            bulk.body(memories).encode(&mut code);
        }
        Ok(code)
    }
}

/// An instruction that may be long, and its range in the bytes of its function.
type Long = (Range<usize>, Bulk);

/// Finds the instructions of a function that may be long.
fn long(body: &FunctionBody<'_>) -> Result<Vec<Long>, BulkError> {
    let mut long = Vec::new();
    let mut reader = body.get_operators_reader()?;
    let at = |reader: &OperatorsReader<'_>| (reader.original_position() - body.range().start) as usize;
    let mut length = None;
    while !reader.eof() {
        let start = at(&reader);
        let operator = reader.read()?;
        let bulk = match operator {
            Operator::MemoryFill { mem } => Some(Bulk::Fill(mem)),
            Operator::MemoryCopy { dst_mem, src_mem } => Some(Bulk::Copy { to: dst_mem, from: src_mem }),
            _ => None,
        };
        // The instruction before most of them pushes a constant length.
        if let Some(bulk) = bulk
            && length.is_none_or(|length| length > PIECE)
        {
            long.push((start..at(&reader), bulk));
        }
        length = match operator {
            Operator::I32Const { value } => Some(u64::from(value.cast_unsigned())),
            Operator::I64Const { value } => Some(value.cast_unsigned()),
            _ => None,
        };
    }
    Ok(long)
}

fn is_by_offset(custom: &[u8]) -> Result<bool, BulkError> {
    Ok(CustomSectionReader::new(BinaryReader::new(custom, 0))?.name().starts_with(BY_OFFSET))
}
