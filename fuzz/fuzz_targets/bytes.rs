#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| template::trial::bytes(data));
