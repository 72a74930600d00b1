//! Reserves memory for WIT values while they are read, since they take up to a hundred times the bytes of their JSON.

use std::cell::Cell;

use serde::de::Error;
use wasmtime::component::Val;

use super::Type;
use crate::{NoMemory, Reservation};

/// The bytes of a value, and as many again for the spare capacity of growing vectors.
const VALUE_BYTES: usize = 2 * size_of::<Val>();

/// The least bytes of one `try_grow`, so that not each value touches the budget that all calls share.
const STEP_BYTES: u64 = 4 << 10;

/// Grows a reservation in steps.
pub(super) struct Meter<'a> {
    reservation: &'a Reservation,
    unused: Cell<u64>,
    refused: Cell<bool>,
}

impl<'a> Meter<'a> {
    pub(super) fn new(reservation: &'a Reservation) -> Self {
        Self { reservation, unused: Cell::new(0), refused: Cell::new(false) }
    }

    /// Returns `true` if the memory budget refused a step, so that the error is not the body's fault.
    pub(super) fn refused(&self) -> bool {
        self.refused.get()
    }

    /// Reserves memory for a value of a type and the names in it, without its elements and text.
    pub(super) fn reserve_value<E: Error>(&self, ty: &Type) -> Result<(), E> {
        let named = |name: &String| size_of::<String>() + name.len();
        let longest = |names: &mut dyn Iterator<Item = &String>| names.map(String::len).max().unwrap_or(0);
        let more = match ty {
            // Omitted fields take memory too, as options without a value.
            Type::Record(fields) => fields.iter().map(|(name, _)| named(name) + size_of::<Val>()).sum(),
            Type::Flags(names) => names.iter().map(named).sum(),
            Type::Enum(names) => longest(&mut names.iter()),
            Type::Variant(cases) => longest(&mut cases.iter().map(|(name, _)| name)),
            Type::List(_) => VALUE_BYTES,
            _ => 0,
        };
        self.reserve(VALUE_BYTES + more)
    }

    /// Reserves memory for a list of `count` bytes.
    pub(super) fn reserve_list<E: Error>(&self, count: usize) -> Result<(), E> {
        self.reserve(count.saturating_mul(size_of::<Val>()))
    }

    /// Reserves memory for the bytes of a text.
    pub(super) fn reserve<E: Error>(&self, bytes: usize) -> Result<(), E> {
        let bytes = bytes as u64;
        if bytes > self.unused.get() {
            let step = bytes.max(STEP_BYTES);
            if self.reservation.try_grow(step).is_err() {
                self.refused.set(true);
                return Err(E::custom(NoMemory));
            }
            self.unused.set(self.unused.get() + step);
        }
        self.unused.set(self.unused.get() - bytes);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{CallError, MemoryBudget, wit::arguments};

    fn read(body: &str, ty: Type, budget: &MemoryBudget) -> (Result<Vec<Val>, CallError>, u64) {
        let reservation = budget.reservation();
        let values = arguments(body.as_bytes(), &[("p".to_owned(), ty)], &reservation);
        (values, budget.used())
    }

    #[test]
    fn memory_is_reserved_while_values_are_read_and_a_refusal_is_no_bad_argument() {
        let budget = MemoryBudget::new(Some(1 << 20));
        let numbers = format!("[[{}]]", vec!["0"; 100_000].join(","));
        let bytes = format!("[\"{}\"]", "AAAA".repeat(25_000));
        for (body, ty) in [(numbers, Type::List(Box::new(Type::U8))), (bytes, Type::Bytes)] {
            let (refused, used) = read(&body, ty.clone(), &budget);
            assert!(matches!(refused, Err(CallError::NodeMemory)), "{ty}: {refused:?}");
            assert!(used <= 1 << 20);
            let enough = MemoryBudget::new(None);
            let (values, used) = read(&body, ty.clone(), &enough);
            let Ok([Val::List(values)]) = values.as_deref() else { panic!("{ty}") };
            assert!(used >= size_of_val(&values[..]) as u64, "{ty}: {used} bytes are reserved");
        }
        assert_eq!(budget.used(), 0);
        let (wrong, _) = read("[[0, true]]", Type::List(Box::new(Type::U8)), &budget);
        assert!(matches!(wrong, Err(CallError::BadArguments(_))), "{wrong:?}");
    }

    #[test]
    fn memory_is_reserved_for_omitted_fields() {
        let fields = (0..50).map(|at| (format!("f{at}"), Type::Option(Box::new(Type::U8)))).collect();
        let records = format!("[[{}]]", vec!["{}"; 1000].join(","));
        let (values, used) =
            read(&records, Type::List(Box::new(Type::Record(fields))), &MemoryBudget::new(None));
        assert!(values.is_ok());
        let least = 1000 * 50 * size_of::<(String, Val)>() as u64;
        assert!(used >= least, "{used} bytes are reserved for {least}");
    }
}
