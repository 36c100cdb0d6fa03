//! Positions of the windows of a long text.
//!
//! - *In*: number of tokens, window length, overlap, maximum number of windows.
//! - *Out*: ranges of tokens in text order, and how many windows were left out.
//! - *Never*: the tokens themselves.
//!
//! The last window ends at the end of the text and is as full as the others. If there are too many
//! windows, half of the maximum is taken from the start and half from the end: instructions are at
//! the start of a text, injections are mostly appended.

use std::ops::Range;

/// The shape of windows; `overlap` is at most half of `room`, and `room` at least 1.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    /// Tokens of the text in one window, without the special ones.
    pub room: usize,
    /// Tokens shared by neighboring windows.
    pub overlap: usize,
    /// Maximum number of windows.
    pub max_windows: usize,
}

/// The ranges to read of `total` tokens, and the number of ranges that are skipped. A text without
/// tokens has one empty range.
pub(crate) fn cut(total: usize, shape: Shape) -> (Vec<Range<usize>>, usize) {
    let step = shape.room.saturating_sub(shape.overlap).max(1);
    let last = total.saturating_sub(shape.room);
    let count = last.div_ceil(step) + 1;
    let range = |index: usize| {
        let start = index.saturating_mul(step).min(last);
        start..(start + shape.room).min(total)
    };
    if count <= shape.max_windows {
        return ((0..count).map(range).collect(), 0);
    }
    let tail = shape.max_windows / 2;
    let head = shape.max_windows - tail;
    ((0..head).chain(count - tail..count).map(range).collect(), count - shape.max_windows)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape { room: 10, overlap: 4, max_windows: usize::MAX };

    #[test]
    fn short_texts_are_one_window() {
        for total in [0, 1, 10] {
            let (ranges, skipped_windows) = cut(total, SHAPE);
            assert!(ranges.iter().eq([&(0..total)]) && skipped_windows == 0, "{ranges:?}");
        }
    }

    #[test]
    fn long_texts_are_covered_with_overlap() {
        assert_eq!(cut(11, SHAPE), (vec![0..10, 1..11], 0));
        assert_eq!(cut(22, SHAPE), (vec![0..10, 6..16, 12..22], 0));
        for total in 0..200 {
            for room in 1..20 {
                for overlap in 0..=room / 2 {
                    let (ranges, skipped_windows) =
                        cut(total, Shape { room, overlap, max_windows: usize::MAX });
                    assert_eq!(
                        (ranges[0].start, ranges[ranges.len() - 1].end, skipped_windows),
                        (0, total, 0)
                    );
                    assert!(ranges.windows(2).all(|pair| pair[1].start > pair[0].start
                        && pair[1].start + overlap <= pair[0].end));
                    assert!(ranges.iter().all(|range| range.len() == room.min(total)));
                }
            }
        }
    }

    #[test]
    fn too_many_windows_keep_both_ends() {
        assert_eq!(cut(100, Shape { max_windows: 3, ..SHAPE }), (vec![0..10, 6..16, 90..100], 13));
        let (ranges, skipped_windows) = cut(100, Shape { max_windows: 1, ..SHAPE });
        assert!(ranges.iter().eq([&(0..10)]) && skipped_windows == 15, "{ranges:?}");
        assert_eq!(cut(100, Shape { max_windows: 16, ..SHAPE }).1, 0);
    }
}
