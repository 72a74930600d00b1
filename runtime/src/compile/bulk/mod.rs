//! Long instructions, made of shorter ones.
//!
//! A guest's deadline is looked at where a function begins and where a loop begins again, not within an instruction;
//! and `memory.fill` and `memory.copy` are one instruction each, over all the memory there is if the guest likes. Before
//! a module is compiled, each of them that may be long becomes a call of a function that is added to the module and does
//! the same piece by piece. What it does with the module's memory and where it traps is as
//! [the specification](https://webassembly.github.io/spec/core/exec/instructions.html#memory-instructions) has it.
//!
//! The other bulk instructions are short: they are bounded by a module's own data and by the tables' limit.

#![allow(
    clippy::cast_possible_truncation,
    reason = "a module that is taken is smaller than 4 GiB, and so is whatever is counted in it"
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

/// The deepest that components may be nested. Those that tools make have two or three levels.
const LEVELS: usize = 32;
/// What begins a module or component: the magic bytes, the version, the layer.
const PREAMBLE: usize = 8;
/// How sections begin that speak of instructions by their place in a function, which is another after this.
const BY_PLACE: &str = "metadata.code.";

/// Why a module's long instructions could not be found.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BulkError {
    /// It is not what its first bytes say.
    #[error(transparent)]
    Malformed(#[from] BinaryReaderError),
    /// Each level takes stack and a copy.
    #[error("its components are nested more than {LEVELS} deep")]
    TooDeep,
}

/// `wasm` without long instructions; itself where it has none.
pub(crate) fn in_pieces(kind: Kind, wasm: &[u8]) -> Result<Cow<'_, [u8]>, BulkError> {
    let split = match kind {
        Kind::Core => module(wasm)?,
        Kind::Component => component(wasm, LEVELS)?,
    };
    Ok(split.map_or(Cow::Borrowed(wasm), Cow::Owned))
}

/// A component with the long instructions of its modules in pieces; `None` where there are none.
fn component(wasm: &[u8], levels: usize) -> Result<Option<Vec<u8>>, BulkError> {
    const MODULE: u8 = ComponentSectionId::CoreModule as u8;
    const COMPONENT: u8 = ComponentSectionId::Component as u8;

    let levels = levels.checked_sub(1).ok_or(BulkError::TooDeep)?;
    let mut is_split = false;
    let split = each_section(wasm, |id, data| {
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

/// A module with its long instructions in pieces; `None` where there are none.
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
    let mut split = each_section(wasm, |id, data| {
        Ok(Some(match id {
            TYPE => longer(data, bulk.iter().map(|bulk| bulk.ty(memories)))?.into(),
            FUNCTION => longer(data, (0..bulk.len() as u32).map(|at| encoded(types + at)))?.into(),
            CODE => found.code(data, &mut long)?.into(),
            CUSTOM if is_by_place(data)? => return Ok(None),
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

/// All sections of a module or component, each as it then is, without those that are then none.
fn each_section<'a>(
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

/// A section that is a list, and more items at its end.
fn longer(data: &[u8], more: impl ExactSizeIterator<Item = Vec<u8>>) -> Result<Vec<u8>, BulkError> {
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

/// What of a module is needed to add functions to it.
#[derive(Default)]
struct Found {
    types: u32,
    functions: u32,
    memories: Vec<MemoryType>,
    /// Its long instructions, of each kind one. The functions that are added are in this order.
    bulk: BTreeSet<Bulk>,
    /// The long instructions of each of its functions, in the order of the functions' bodies.
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
                    // Where it has no such memory it is not valid, which is for others to say.
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

    /// The section of functions' bodies, with calls of the functions that are added, and these. Takes of `long` what
    /// its bodies have.
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

/// An instruction that may be long, and where in its function's bytes it is.
type Long = (Range<usize>, Bulk);

/// The instructions of a function that may be long.
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
        // Most are of a length that the instruction before them says.
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

fn is_by_place(custom: &[u8]) -> Result<bool, BulkError> {
    Ok(CustomSectionReader::new(BinaryReader::new(custom, 0))?.name().starts_with(BY_PLACE))
}
