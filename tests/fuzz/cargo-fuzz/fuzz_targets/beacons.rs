#![no_main]
libfuzzer_sys::fuzz_target!(|input: &[u8]| godwit_fuzz::run("beacons", input));
