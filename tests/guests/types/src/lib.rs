//! Returns its argument, one function for each WIT type.

wit_bindgen::generate!({ world: "types", path: "wit" });

use exports::test::types::{
    echo::{AllThirtyTwo, Color, OverEight, Point, Shape, Small, Value},
    handles::{self, Handle, HandleBorrow},
};

struct Types;

/// Functions that return their one parameter.
macro_rules! echo {
    ($($name:ident: $ty:ty;)*) => {
        $(fn $name(value: $ty) -> $ty { value })*
    };
}

impl exports::test::types::echo::Guest for Types {
    echo! {
        echo_bool: bool;
        echo_s8: i8;
        echo_u8: u8;
        echo_s16: i16;
        echo_u16: u16;
        echo_s32: i32;
        echo_u32: u32;
        echo_s64: i64;
        echo_u64: u64;
        echo_f32: f32;
        echo_f64: f64;
        echo_char: char;
        echo_string: String;
        echo_bytes: Vec<u8>;
        echo_strings: Vec<String>;
        echo_byte_lists: Vec<Vec<u8>>;
        echo_record: Point;
        echo_nested_record: Shape;
        echo_tuple: (u32, String, bool);
        echo_variant: Value;
        echo_enum: Color;
        echo_flags: Small;
        echo_nine_flags: OverEight;
        echo_thirty_two_flags: AllThirtyTwo;
        echo_option: Option<String>;
        echo_nested_option: Option<Option<u32>>;
        echo_results: Vec<Result<String, u32>>;
        echo_results_without_payloads: Vec<Result<(), ()>>;
        echo_results_with_one_payload: (Result<u32, ()>, Result<(), u32>);
        give_result: Result<String, u32>;
    }

    fn give_result_without_payloads(ok: bool) -> Result<(), ()> {
        if ok { Ok(()) } else { Err(()) }
    }

    fn give_error_record(value: Point) -> Result<(), Point> {
        Err(value)
    }

    fn join(left: String, right: String, times: u32) -> String {
        format!("{left}{right}").repeat(times as usize)
    }

    fn nothing() {}
}

struct Number(u32);

impl handles::GuestHandle for Number {
    fn new(value: u32) -> Self {
        Self(value)
    }

    fn value(&self) -> u32 {
        self.0
    }
}

impl handles::Guest for Types {
    type Handle = Number;

    fn read(handle: HandleBorrow<'_>) -> u32 {
        handle.get::<Number>().0
    }

    fn make(value: u32) -> Handle {
        Handle::new(Number(value))
    }
}

export!(Types);
