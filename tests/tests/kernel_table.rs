//! The compiled kernels and the Rust launchers agree: names, number and size of parameters. Reads the PTX; needs no GPU.

use omen_gpu::launch::{KERNELS, Kernel};
use omen_gpu::params::ScanParams;
use std::collections::BTreeMap;

/// Bytes of a PTX parameter: `.param .align 8 .b8 scan_param_0[120]` or `.param .u64 scan_param_0`.
fn param_bytes(declaration: &str) -> usize {
    let words: Vec<&str> = declaration.split_whitespace().collect();
    let width = words
        .iter()
        .find_map(|word| match *word {
            ".b8" | ".u8" | ".s8" => Some(1),
            ".b16" | ".u16" | ".s16" | ".f16" => Some(2),
            ".b32" | ".u32" | ".s32" | ".f32" => Some(4),
            ".b64" | ".u64" | ".s64" | ".f64" => Some(8),
            _ => None,
        })
        .unwrap_or_else(|| panic!("parameter without a type: {declaration}"));
    let name = words.last().expect("a declaration has words");
    match name.split_once('[') {
        Some((_, n)) => {
            width
                * n.trim_end_matches(']')
                    .parse::<usize>()
                    .expect("array length")
        }
        None => width,
    }
}

/// Every `.entry` of a PTX text with the bytes of its parameters.
fn entries(ptx: &str) -> BTreeMap<String, Vec<usize>> {
    ptx.split(".entry")
        .skip(1)
        .map(|text| {
            let (name, rest) = text.split_once('(').expect("parameters of an entry");
            let (params, _) = rest.split_once(')').expect("end of the parameters");
            let sizes = params
                .split(',')
                .filter(|p| p.contains(".param"))
                .map(param_bytes)
                .collect();
            (name.trim().to_string(), sizes)
        })
        .collect()
}

/// Where the compiled code and the launchers' table disagree.
fn disagreements(ptx: &str, table: &[Kernel]) -> Vec<String> {
    let mut compiled = entries(ptx);
    let mut found = Vec::new();
    for kernel in table {
        match compiled.remove(kernel.symbol) {
            None => found.push(format!("{}: has a launcher, but no kernel", kernel.symbol)),
            Some(sizes) if sizes != kernel.param_bytes => {
                found.push(format!(
                    "{}: kernel takes {sizes:?}, launcher gives {:?}",
                    kernel.symbol, kernel.param_bytes
                ));
            }
            Some(_) => {}
        }
    }
    found.extend(
        compiled
            .into_keys()
            .map(|name| format!("{name}: has no launcher")),
    );
    found
}

fn ptx() -> String {
    let image = omen_gpu::module::images()
        .into_iter()
        .find(|image| image.is_ptx)
        .expect("the pack holds PTX");
    String::from_utf8(image.bytes().expect("the PTX unpacks")).expect("PTX is text")
}

#[test]
fn kernels_and_launchers_agree() {
    assert_eq!(disagreements(&ptx(), KERNELS), Vec::<String>::new());
    assert_eq!(entries(&ptx()).len(), KERNELS.len());
}

#[test]
fn machine_code_holds_every_kernel() {
    for image in omen_gpu::module::images()
        .iter()
        .filter(|image| !image.is_ptx)
    {
        let bytes = image.bytes().expect("the image unpacks");
        for kernel in KERNELS {
            let symbol = format!(".text.{}\0", kernel.symbol);
            assert!(
                bytes.windows(symbol.len()).any(|w| w == symbol.as_bytes()),
                "{} lacks {}",
                image.arch,
                kernel.symbol
            );
        }
    }
}

#[test]
fn a_disagreement_is_noticed() {
    let ptx = ptx();
    let changed = |from: &str, to: &str| {
        assert!(ptx.contains(from), "{from}");
        disagreements(&ptx.replacen(from, to, 1), KERNELS)
    };
    assert_eq!(
        changed("select_smallest_param_0[40]", "select_smallest_param_0[48]").len(),
        1,
        "a field more"
    );
    let last = format!(".b8 scan_fma_param_0[{}]", size_of::<ScanParams>());
    assert_eq!(
        changed(
            &format!("{last}\n"),
            &format!("{last},\n\t.param .u32 scan_fma_param_1\n")
        )
        .len(),
        1,
        "a parameter more"
    );
    assert_eq!(
        changed(".entry rerank_selected(", ".entry rerank_chosen(").len(),
        2,
        "a renamed kernel"
    );
    assert_eq!(
        disagreements(&ptx, &KERNELS[1..]).len(),
        1,
        "a kernel without a launcher"
    );
    let mut wrong = KERNELS.to_vec();
    wrong[0].param_bytes = &[8, 112];
    assert_eq!(
        disagreements(&ptx, &wrong).len(),
        1,
        "a launcher that passes two parameters"
    );
}
