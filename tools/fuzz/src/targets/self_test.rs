//! `self-test`: a parser with every fault that the driver must detect.

use std::hint::black_box;
use std::path::Path;

use super::Run;
use crate::Error;

pub(super) fn start(_: &Path) -> Result<Run, Error> {
    Ok(Box::new(|bytes| match bytes {
        b"broken" => Err("as wanted".to_owned()),
        b"panic" => panic!("as wanted"),
        b"memory" => {
            black_box(vec![1_u8; 1 << 30]);
            Ok(())
        }
        b"stack" => {
            black_box(deep(black_box(u64::MAX)));
            Ok(())
        }
        _ => Ok(()),
    }))
}

fn deep(levels: u64) -> u64 {
    let frame = black_box([levels; 64]);
    if levels == 0 { 0 } else { deep(levels - 1).wrapping_add(frame[0]) }
}
