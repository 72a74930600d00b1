//! Generates the functions that do a long instruction in pieces.

use wasm_encoder::{BlockType, Encode as _, Function, InstructionSink, ValType};
use wasmparser::MemoryType;

/// Length of a piece, in bytes: some tenths of a millisecond where the memory is touched for the first time.
pub(super) const PIECE: u64 = 1 << 20;

/// An instruction whose length the guest chooses, and the memories that it accesses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Bulk {
    /// `memory.fill`.
    Fill(u32),
    /// `memory.copy`.
    Copy { to: u32, from: u32 },
}

// Operands, in the order of the instruction's stack.
const TO: u32 = 0;
/// The byte to fill with, or the source address.
const SOURCE: u32 = 1;
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

    /// Types of the operands.
    fn operands(self, memories: &[MemoryType]) -> [ValType; 3] {
        let address =
            |memory: u32| if memories[memory as usize].memory64 { ValType::I64 } else { ValType::I32 };
        match self {
            Self::Fill(memory) => [address(memory), ValType::I32, address(memory)],
            Self::Copy { to, from } => {
                // The length has the smaller of the two address types.
                let both = [address(to), address(from)];
                let length = if both == [ValType::I64; 2] { ValType::I64 } else { ValType::I32 };
                [both[0], both[1], length]
            }
        }
    }

    /// Encodes the function's type as an item of the type section.
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

    /// Generates the function's body.
    pub(super) fn body(self, memories: &[MemoryType]) -> Function {
        let operands = self.operands(memories);
        let mut body = Function::new([(operands.len() as u32, ValType::I64)]);
        let mut code = Code { to: body.instructions(), bulk: self, operands };
        // All arithmetic is in 64 bits, whatever the types of the operands.
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
            // With overlapping ranges, the order must not overwrite bytes that are still to be copied.
            Self::Copy { .. } => {
                code.to.local_get(WIDE + TO).local_get(WIDE + SOURCE).i64_le_u().if_(BlockType::Empty);
                code.upwards();
                code.to.return_().end();
                code.downwards();
            }
        }
        code.to.end();
        body
    }
}

/// First byte of a function type in the binary format.
const FUNCTION_TYPE: u8 = 0x60;
const NO_RESULTS: u32 = 0;
/// Index of the first of the locals that hold the operands in 64 bits.
const WIDE: u32 = 3;

struct Code<'a> {
    to: InstructionSink<'a>,
    bulk: Bulk,
    operands: [ValType; 3],
}

impl Code<'_> {
    /// Pushes an operand in its own type.
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

    /// Emits the instruction itself, for all that is left.
    fn rest(&mut self) {
        for operand in [TO, SOURCE, LENGTH] {
            self.operand(operand);
        }
        self.instruction();
    }

    /// The operands that are addresses, each with its memory.
    fn addresses(&self) -> impl Iterator<Item = (u32, u32)> + use<> {
        let [to, from] = self.bulk.memories();
        [(TO, to), (SOURCE, from)].into_iter().take(if matches!(self.bulk, Bulk::Fill(_)) { 1 } else { 2 })
    }

    /// Pushes a condition: there is only one piece, or a range exceeds its memory, where the instruction itself traps
    /// before it has an effect.
    fn short_or_outside(&mut self, memories: &[MemoryType]) {
        self.to.local_get(WIDE + LENGTH).i64_const(PIECE.cast_signed()).i64_le_u();
        for (address, memory) in self.addresses() {
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
            self.to.local_get(WIDE + address);
            size(self);
            self.to.local_get(WIDE + LENGTH).i64_sub().i64_gt_u().i32_or();
        }
    }

    /// Emits the loop over the pieces in ascending order.
    fn upwards(&mut self) {
        self.to.loop_(BlockType::Empty);
        for operand in [TO, SOURCE] {
            self.operand(operand);
        }
        self.piece();
        for (address, _) in self.addresses() {
            self.to
                .local_get(WIDE + address)
                .i64_const(PIECE.cast_signed())
                .i64_add()
                .local_set(WIDE + address);
        }
        self.one_less();
        self.again();
    }

    /// Emits the loop over the pieces in descending order.
    fn downwards(&mut self) {
        self.to.loop_(BlockType::Empty);
        self.one_less();
        for (address, _) in self.addresses() {
            self.to.local_get(WIDE + address).local_get(WIDE + LENGTH).i64_add();
            self.narrow(address);
        }
        self.piece();
        self.again();
    }

    /// Emits the instruction for one piece, whose addresses are on the stack.
    fn piece(&mut self) {
        self.to.i64_const(PIECE.cast_signed());
        self.narrow(LENGTH);
        self.instruction();
    }

    fn one_less(&mut self) {
        self.to.local_get(WIDE + LENGTH).i64_const(PIECE.cast_signed()).i64_sub().local_set(WIDE + LENGTH);
    }

    /// Emits the end of the loop, and the last piece after it.
    fn again(&mut self) {
        self.to.local_get(WIDE + LENGTH).i64_const(PIECE.cast_signed()).i64_gt_u().br_if(0).end();
        self.rest();
    }
}
