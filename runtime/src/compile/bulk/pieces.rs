//! The functions that do a long instruction piece by piece.

use wasm_encoder::{BlockType, Encode as _, Function, InstructionSink, ValType};
use wasmparser::MemoryType;

/// The most that is done at once, in bytes: some tenths of a millisecond where the memory is touched for the first time.
pub(super) const PIECE: u64 = 1 << 20;

/// An instruction on as many bytes as the guest says, and the memories that it is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Bulk {
    /// `memory.fill`.
    Fill(u32),
    /// `memory.copy`.
    Copy { to: u32, from: u32 },
}

// The operands, in the instruction's order.
const TO: u32 = 0;
/// A byte, or where to copy from.
const WHAT: u32 = 1;
const LENGTH: u32 = 2;

impl Bulk {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Fill(_) => "memory.fill",
            Self::Copy { .. } => "memory.copy",
        }
    }

    pub(super) fn memories(self) -> [u32; 2] {
        match self {
            Self::Fill(memory) => [memory; 2],
            Self::Copy { to, from } => [to, from],
        }
    }

    /// The types of its operands.
    fn operands(self, memories: &[MemoryType]) -> [ValType; 3] {
        let address =
            |memory: u32| if memories[memory as usize].memory64 { ValType::I64 } else { ValType::I32 };
        match self {
            Self::Fill(memory) => [address(memory), ValType::I32, address(memory)],
            Self::Copy { to, from } => {
                // The length is of the smaller type of the two.
                let both = [address(to), address(from)];
                let length = if both == [ValType::I64; 2] { ValType::I64 } else { ValType::I32 };
                [both[0], both[1], length]
            }
        }
    }

    /// The function's type, as an item of the section of types.
    pub(super) fn ty(self, memories: &[MemoryType]) -> Vec<u8> {
        let operands = self.operands(memories);
        let mut ty = vec![FUNCTION_TYPE];
        operands.len().encode(&mut ty);
        for operand in operands {
            operand.encode(&mut ty);
        }
        NO_RESULTS.encode(&mut ty);
        ty
    }

    /// The function's body.
    pub(super) fn body(self, memories: &[MemoryType]) -> Function {
        let operands = self.operands(memories);
        let mut body = Function::new([(operands.len() as u32, ValType::I64)]);
        let mut code = Code { to: body.instructions(), bulk: self, operands };
        // All reckoning is in 64 bits, whatever the operands are.
        for operand in 0..operands.len() as u32 {
            code.to.local_get(operand);
            if operands[operand as usize] == ValType::I32 {
                code.to.i64_extend_i32_u();
            }
            code.to.local_set(WIDE + operand);
        }
        code.short_or_outside(memories);
        code.to.if_(BlockType::Empty);
        code.rest();
        code.to.return_().end();
        match self {
            Self::Fill(_) => code.upwards(),
            // Where the two overlap, what is copied last must not be written over before.
            Self::Copy { .. } => {
                code.to.local_get(WIDE + TO).local_get(WIDE + WHAT).i64_le_u().if_(BlockType::Empty);
                code.upwards();
                code.to.return_().end();
                code.downwards();
            }
        }
        code.to.end();
        body
    }
}

/// How a function's type begins in the binary format.
const FUNCTION_TYPE: u8 = 0x60;
const NO_RESULTS: u32 = 0;
/// The first of the locals that hold the operands in 64 bits.
const WIDE: u32 = 3;

struct Code<'a> {
    to: InstructionSink<'a>,
    bulk: Bulk,
    operands: [ValType; 3],
}

impl Code<'_> {
    /// The operand as the instruction takes it.
    fn operand(&mut self, operand: u32) {
        self.to.local_get(WIDE + operand);
        self.narrow(operand);
    }

    fn narrow(&mut self, operand: u32) {
        if self.operands[operand as usize] == ValType::I32 {
            self.to.i32_wrap_i64();
        }
    }

    fn instruction(&mut self) {
        match self.bulk {
            Bulk::Fill(memory) => self.to.memory_fill(memory),
            Bulk::Copy { to, from } => self.to.memory_copy(to, from),
        };
    }

    /// The instruction itself, on all that is left.
    fn rest(&mut self) {
        for operand in [TO, WHAT, LENGTH] {
            self.operand(operand);
        }
        self.instruction();
    }

    /// The operands that are places in a memory.
    fn places(&self) -> impl Iterator<Item = (u32, u32)> + use<> {
        let [to, from] = self.bulk.memories();
        [(TO, to), (WHAT, from)].into_iter().take(if matches!(self.bulk, Bulk::Fill(_)) { 1 } else { 2 })
    }

    /// Whether there is only one piece, or a place that is outside of its memory: then the instruction traps, and has
    /// done nothing before.
    fn short_or_outside(&mut self, memories: &[MemoryType]) {
        self.to.local_get(WIDE + LENGTH).i64_const(PIECE.cast_signed()).i64_le_u();
        for (place, memory) in self.places() {
            let ty = &memories[memory as usize];
            let size = |code: &mut Self| {
                code.to.memory_size(memory);
                if !ty.memory64 {
                    code.to.i64_extend_i32_u();
                }
                code.to.i64_const(ty.page_size_log2().into()).i64_shl();
            };
            size(self);
            self.to.local_get(WIDE + LENGTH).i64_lt_u().i32_or();
            self.to.local_get(WIDE + place);
            size(self);
            self.to.local_get(WIDE + LENGTH).i64_sub().i64_gt_u().i32_or();
        }
    }

    /// The pieces from the lowest on.
    fn upwards(&mut self) {
        self.to.loop_(BlockType::Empty);
        for operand in [TO, WHAT] {
            self.operand(operand);
        }
        self.piece();
        for (place, _) in self.places() {
            self.to.local_get(WIDE + place).i64_const(PIECE.cast_signed()).i64_add().local_set(WIDE + place);
        }
        self.one_less();
        self.again();
    }

    /// The pieces from the highest on.
    fn downwards(&mut self) {
        self.to.loop_(BlockType::Empty);
        self.one_less();
        for (place, _) in self.places() {
            self.to.local_get(WIDE + place).local_get(WIDE + LENGTH).i64_add();
            self.narrow(place);
        }
        self.piece();
        self.again();
    }

    /// The instruction on one piece, its places being there.
    fn piece(&mut self) {
        self.to.i64_const(PIECE.cast_signed());
        self.narrow(LENGTH);
        self.instruction();
    }

    fn one_less(&mut self) {
        self.to.local_get(WIDE + LENGTH).i64_const(PIECE.cast_signed()).i64_sub().local_set(WIDE + LENGTH);
    }

    /// The end of the loop, and of the function's work: the last piece is what is left.
    fn again(&mut self) {
        self.to.local_get(WIDE + LENGTH).i64_const(PIECE.cast_signed()).i64_gt_u().br_if(0).end();
        self.rest();
    }
}
