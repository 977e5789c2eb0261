#![no_main]

#[path = "../../tests/parsers/targets.rs"]
#[allow(dead_code)]
mod targets;
#[path = "../../tests/parsers/world.rs"]
#[allow(dead_code)]
mod world;

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::receipt(data));
