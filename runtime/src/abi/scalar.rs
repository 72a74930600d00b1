//! Scalar: a core export of numbers. Takes JSON numbers by position, and returns a JSON number, or an array of them.

use std::fmt;

use bytes::Bytes;
use serde::ser::{Serialize, Serializer};
use wasmtime::component::Val as WitVal;
use wasmtime::{ModuleExport, Val, ValType};

use super::Output;
use crate::{
    Call, CallError, Format, Reservation,
    instance::Instance,
    wit::{self, Json, Type},
};

/// A core export whose parameters and results are all numbers.
pub(crate) struct Target {
    export: ModuleExport,
    /// Core parameters have no names, so these are `p0`, `p1`, ...
    params: Vec<(String, Type)>,
    results: Vec<Type>,
}

impl Target {
    /// `None` if a parameter or a result is no number.
    pub(crate) fn new(export: ModuleExport, ty: &wasmtime::FuncType) -> Option<Self> {
        let params = ty.params().enumerate().map(|(at, ty)| Some((format!("p{at}"), number(&ty)?)));
        Some(Self {
            export,
            params: params.collect::<Option<_>>()?,
            results: ty.results().map(|ty| number(&ty)).collect::<Option<_>>()?,
        })
    }

    pub(crate) fn arguments(&self, call: &Call, held: &Reservation) -> Result<Vec<Val>, CallError> {
        let values = wit::arguments(&call.body, &self.params, held)?;
        Ok(values.iter().map(core).collect())
    }

    pub(crate) async fn run(&self, instance: &mut Instance, arguments: &[Val]) -> Result<Output, CallError> {
        let (func, store) = instance.core_func(&self.export)?;
        let mut results = [const { Val::I32(0) }; 1];
        let mut many = Vec::new();
        let results = if self.results.len() <= 1 {
            &mut results[..self.results.len()]
        } else {
            many.resize(self.results.len(), Val::I32(0));
            &mut many[..]
        };
        func.call_async(store, arguments, results).await.map_err(|error| CallError::of_guest(&error))?;
        let body = match &*results {
            [] => b"null".to_vec(),
            [one] => json(&Number(one, &self.results[0]))?,
            many => json(
                &many.iter().zip(&self.results).map(|(value, ty)| Number(value, ty)).collect::<Vec<_>>(),
            )?,
        };
        Ok(Output { body: Bytes::from(body), format: Format::Json })
    }
}

fn json(value: &impl Serialize) -> Result<Vec<u8>, CallError> {
    let mut body = Vec::with_capacity(24);
    serde_json::to_writer(&mut body, value).map_err(|error| CallError::trap(error.to_string()))?;
    Ok(body)
}

/// The WIT type of a number. Core integers have no sign; they are read as signed, as `int` is in most languages.
fn number(ty: &ValType) -> Option<Type> {
    match ty {
        ValType::I32 => Some(Type::S32),
        ValType::I64 => Some(Type::S64),
        ValType::F32 => Some(Type::F32),
        ValType::F64 => Some(Type::F64),
        ValType::V128 | ValType::Ref(_) => None,
    }
}

fn core(value: &WitVal) -> Val {
    match *value {
        WitVal::S64(value) => Val::I64(value),
        WitVal::Float32(value) => Val::F32(value.to_bits()),
        WitVal::Float64(value) => Val::F64(value.to_bits()),
        WitVal::S32(value) => Val::I32(value),
        // Unreachable: `number` gives no other type, so decoding gives no other value.
        _ => Val::I32(0),
    }
}

struct Number<'a>(&'a Val, &'a Type);

impl Serialize for Number<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match *self.0 {
            Val::I32(value) => serializer.serialize_i32(value),
            Val::I64(value) => serializer.serialize_i64(value),
            Val::F32(bits) => Json(&WitVal::Float32(f32::from_bits(bits)), self.1).serialize(serializer),
            Val::F64(bits) => Json(&WitVal::Float64(f64::from_bits(bits)), self.1).serialize(serializer),
            _ => serializer.serialize_unit(),
        }
    }
}

/// Displays a core function's type with the names of the text format: `func(i32, i32) -> i32`.
pub(crate) struct Signature<'a>(pub(crate) &'a wasmtime::FuncType);

impl fmt::Display for Signature<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |types: &mut dyn Iterator<Item = ValType>| {
            types.map(|ty| ty.to_string()).collect::<Vec<_>>().join(", ")
        };
        write!(f, "func({})", list(&mut self.0.params()))?;
        match self.0.results().len() {
            0 => Ok(()),
            1 => write!(f, " -> {}", list(&mut self.0.results())),
            _ => write!(f, " -> ({})", list(&mut self.0.results())),
        }
    }
}
