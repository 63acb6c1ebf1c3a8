//! Distances that a plan has ordered by and that nobody reads.
//!
//! `SELECT id FROM t ORDER BY embedding <-> q LIMIT 10` has a column that it does not return: the distance. The planner leaves it in the scan that
//! hands out rows in this order anyway, where it is computed for each row and thrown away at the top. Of a vector that is out of line that takes a
//! fetch from TOAST: nearly half of what a session does for a search on the GPU. So it is made NULL where no node above the scan reads it.
#![allow(unsafe_code)]

use core::ffi::{c_char, c_int, c_void};

use pgrx::{is_a, pg_guard, pg_sys};

use crate::{am, guc};

/// The hook that was there before ours.
static mut PREVIOUS: pg_sys::planner_hook_type = None;

/// Follows the planner from now on.
pub(crate) fn define() {
    // SAFETY: once, when the library is loaded, on the main thread.
    unsafe {
        PREVIOUS = pg_sys::planner_hook;
        pg_sys::planner_hook = Some(plan);
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn plan(
    query: *mut pg_sys::Query,
    text: *const c_char,
    options: c_int,
    params: pg_sys::ParamListInfo,
) -> *mut pg_sys::PlannedStmt {
    // SAFETY: the arguments are handed on; what comes back is a plan of this process's own.
    unsafe {
        let planned = match PREVIOUS {
            Some(previous) => {
                pg_sys::ffi::pg_guard_ffi_boundary(|| previous(query, text, options, params))
            }
            None => pg_sys::standard_planner(query, text, options, params),
        };
        if guc::skips_unread_distances() {
            leave_out(planned);
        }
        planned
    }
}

/// Leaves out unread distances of a whole statement.
///
/// # Safety
/// `planned` is a finished plan that nobody else has.
unsafe fn leave_out(planned: *mut pg_sys::PlannedStmt) {
    // SAFETY: by this function's contract the nodes are whole, each of the type that its tag says.
    unsafe {
        // Columns that a SELECT orders by and does not return are dropped at the top; those of subplans and CTEs nobody can name.
        if (*planned).commandType == pg_sys::CmdType::CMD_SELECT {
            leave_out_below((*planned).planTree);
        }
        within((*planned).planTree);
        // Some are null: what was planned in two ways and is not used.
        for subplan in nodes::<pg_sys::Plan>((*planned).subplans) {
            leave_out_below(subplan);
            within(subplan);
        }
    }
}

/// Looks for the tops of queries in the tree of `plan`. What other extensions have put there is left alone.
///
/// # Safety
/// `plan` is null or a node of a finished plan.
unsafe fn within(plan: *mut pg_sys::Plan) {
    if plan.is_null() {
        return;
    }
    // SAFETY: by this function's contract; the tag says what a node is.
    unsafe {
        pg_sys::check_stack_depth();
        within((*plan).lefttree);
        within((*plan).righttree);
        match (*plan).type_ {
            pg_sys::NodeTag::T_SubqueryScan => {
                let scan = plan.cast::<pg_sys::SubqueryScan>();
                let (below, number) = ((*scan).subplan, (*scan).scan.scanrelid);
                within(below);
                if !reads_junk(plan, below, number) {
                    leave_out_below(below);
                }
            }
            // The top of some query: its columns beyond those that it returns have no name above. A scan of a subquery may have been removed.
            pg_sys::NodeTag::T_Limit => leave_out_below(plan),
            pg_sys::NodeTag::T_Append => {
                for child in nodes((*plan.cast::<pg_sys::Append>()).appendplans) {
                    within(child);
                }
            }
            // It orders by columns of these that are not returned.
            pg_sys::NodeTag::T_MergeAppend => {
                for child in nodes::<pg_sys::Plan>((*plan.cast::<pg_sys::MergeAppend>()).mergeplans)
                {
                    let is_limit = is_a(child.cast(), pg_sys::NodeTag::T_Limit);
                    within(if is_limit { (*child).lefttree } else { child });
                }
            }
            _ => {}
        }
    }
}

/// Whether the scan of a subquery, number `number` of the range table, reads a column that the subquery does not return.
///
/// # Safety
/// `scan` and `below` are nodes of a finished plan.
unsafe fn reads_junk(
    scan: *mut pg_sys::Plan,
    below: *mut pg_sys::Plan,
    number: pg_sys::Index,
) -> bool {
    // SAFETY: by this function's contract; the set of columns is in the current context.
    unsafe {
        let mut read = core::ptr::null_mut();
        for part in [(*scan).targetlist, (*scan).qual] {
            pg_sys::pull_varattnos(part.cast(), number, &mut read);
        }
        // A whole row, column 0, has what is returned alone.
        let is_read = |column: i32| {
            let from_lowest = column - pg_sys::FirstLowInvalidHeapAttributeNumber;
            pg_sys::bms_is_member(from_lowest, read)
        };
        nodes::<pg_sys::TargetEntry>((*below).targetlist)
            .any(|entry| (*entry).resjunk && is_read(i32::from((*entry).resno)))
    }
}

/// Leaves distances out of a plan whose unreturned columns nobody reads above it.
///
/// # Safety
/// `plan` is null or a node of a finished plan that nobody else has.
unsafe fn leave_out_below(plan: *mut pg_sys::Plan) {
    // SAFETY: by this function's contract.
    unsafe {
        let mut scan = plan;
        if is_a(scan.cast(), pg_sys::NodeTag::T_Limit) {
            let limit = scan.cast::<pg_sys::Limit>();
            // It compares the rows at its end by what they are ordered by.
            if (*limit).limitOption == pg_sys::LimitOption::LIMIT_OPTION_WITH_TIES {
                return;
            }
            scan = (*scan).lefttree;
        }
        if is_a(scan.cast(), pg_sys::NodeTag::T_IndexScan) {
            leave_out_of(scan.cast());
        }
    }
}

/// Makes NULL what an index scan of ours computes to order by, and does not return.
///
/// # Safety
/// As for [`leave_out_below`].
unsafe fn leave_out_of(scan: *mut pg_sys::IndexScan) {
    // SAFETY: by this function's contract. The planner has locked the index; what is made is in the plan's own context.
    unsafe {
        let keys: Vec<*mut c_void> = nodes((*scan).indexorderbyorig).collect();
        let is_key = |entry: *mut pg_sys::TargetEntry| {
            let is_equal = |key: &*mut c_void| pg_sys::equal(*key, (*entry).expr.cast());
            (*entry).resjunk && keys.iter().any(is_equal)
        };
        let targets = (*scan).scan.plan.targetlist;
        if !nodes(targets).any(is_key) || !is_of_ours((*scan).indexid) {
            return;
        }
        let mut without = core::ptr::null_mut();
        for entry in nodes::<pg_sys::TargetEntry>(targets) {
            let mut entry = entry;
            if is_key(entry) {
                let expr = (*entry).expr.cast::<pg_sys::Node>();
                let (kind, modifier) = (pg_sys::exprType(expr), pg_sys::exprTypmod(expr));
                let null = pg_sys::makeNullConst(kind, modifier, pg_sys::exprCollation(expr));
                // Others may have the old one.
                entry = pg_sys::flatCopyTargetEntry(entry);
                (*entry).expr = null.cast();
            }
            without = pg_sys::lappend(without, entry.cast());
        }
        (*scan).scan.plan.targetlist = without;
    }
}

/// # Safety
/// `index` is an index that is locked.
unsafe fn is_of_ours(index: pg_sys::Oid) -> bool {
    // SAFETY: by this function's contract.
    unsafe {
        let rel = pg_sys::index_open(index, pg_sys::NoLock as pg_sys::LOCKMODE);
        let is_ours = am::is_ours(rel);
        pg_sys::index_close(rel, pg_sys::NoLock as pg_sys::LOCKMODE);
        is_ours
    }
}

/// The nodes of a list.
///
/// # Safety
/// `list` is null or a list of such nodes, and stays as it is.
unsafe fn nodes<T>(list: *mut pg_sys::List) -> impl Iterator<Item = *mut T> {
    // SAFETY: by this function's contract; no list has no nodes.
    let n = unsafe { list.as_ref() }.map_or(0, |list| list.length as usize);
    // SAFETY: as above; there are so many cells.
    (0..n).map(move |at| unsafe { (*(*list).elements.add(at)).ptr_value.cast() })
}
