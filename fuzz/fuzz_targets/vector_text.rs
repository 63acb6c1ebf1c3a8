//! See `omen_tests::fuzz`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    omen_tests::fuzz::vectors::text::<f32>(input);
});
