"""What an extension declares, as rows that say nothing of object ids: to compare two that shall be the same."""

# Members of extension `%(extension)s`, but what belongs to an access method: of pgvector's hnsw and ivfflat and of our own.
_OF = """pg_depend d ON d.deptype = 'e' AND d.refclassid = 'pg_extension'::regclass AND d.classid = '{catalog}'::regclass AND d.objid = x.oid
  JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = %(extension)s"""

QUERIES = {
    "type": f"""SELECT typname, typlen, typbyval, typtype, typcategory, typispreferred, typisdefined, typdelim, typrelid, typelem, typarray::regtype, typinput,
        typoutput, typreceive, typsend, typmodin, typmodout, typanalyze, typalign, typstorage, typnotnull, typbasetype, typtypmod, typndims, typcollation, typdefault,
        (SELECT (a.typname, a.typelem::regtype, a.typalign, a.typstorage, a.typinput) FROM pg_type a WHERE a.oid = x.typarray)::text
      FROM pg_type x JOIN {_OF.format(catalog="pg_type")} WHERE typtype = 'b' AND typelem = 0""",
    "function": f"""SELECT oid::regprocedure, prokind, proretset, prorettype::regtype, provolatile, proisstrict, proparallel, proleakproof, prosecdef, procost,
        prorows, provariadic, prosupport, pronargs, pronargdefaults, proargnames, proargmodes, proconfig
      FROM (SELECT * FROM pg_proc WHERE proname !~ '^(omen_|hnsw|ivfflat)') x JOIN {_OF.format(catalog="pg_proc")}""",
    "aggregate": f"""SELECT aggfnoid::regprocedure, aggkind, aggnumdirectargs, aggtransfn, aggfinalfn, aggcombinefn, aggserialfn, aggdeserialfn, aggmtransfn,
        aggminvtransfn, aggmfinalfn, aggfinalextra, aggmfinalextra, aggfinalmodify, aggmfinalmodify, aggsortop, aggtranstype::regtype, aggtransspace,
        aggmtranstype, aggmtransspace, agginitval, aggminitval
      FROM (SELECT aggfnoid AS oid, * FROM pg_aggregate) x JOIN {_OF.format(catalog="pg_proc")}""",
    "operator": f"""SELECT oprname, oprkind, oprcanmerge, oprcanhash, oprleft::regtype, oprright::regtype, oprresult::regtype, oprcom::regoperator,
        oprnegate::regoperator, oprcode::regprocedure, oprrest, oprjoin
      FROM pg_operator x JOIN {_OF.format(catalog="pg_operator")}""",
    "cast": f"""SELECT castsource::regtype, casttarget::regtype, castfunc::regprocedure, castcontext, castmethod
      FROM pg_cast x JOIN {_OF.format(catalog="pg_cast")}""",
    "operator class": f"""SELECT opcname, opcintype::regtype, opcdefault, opckeytype::regtype, opfname
      FROM (SELECT c.*, f.opfname FROM pg_opclass c JOIN pg_opfamily f ON f.oid = c.opcfamily JOIN pg_am a ON a.oid = c.opcmethod WHERE a.amname = 'btree') x
      JOIN {_OF.format(catalog="pg_opclass")}""",
    "member of a class": f"""SELECT opfname, amopstrategy, amopopr::regoperator::text, amoppurpose, amopsortfamily, amoplefttype::regtype, amoprighttype::regtype
      FROM (SELECT o.*, opfname FROM pg_amop o JOIN pg_opfamily f ON f.oid = o.amopfamily JOIN pg_am a ON a.oid = f.opfmethod WHERE a.amname = 'btree') o
      JOIN pg_opfamily x USING (opfname) JOIN {_OF.format(catalog="pg_opfamily")} WHERE x.oid = o.amopfamily
      UNION ALL SELECT opfname, amprocnum, amproc::regprocedure::text, 'p', 0, amproclefttype::regtype, amprocrighttype::regtype
      FROM (SELECT p.*, opfname FROM pg_amproc p JOIN pg_opfamily f ON f.oid = p.amprocfamily JOIN pg_am a ON a.oid = f.opfmethod WHERE a.amname = 'btree') p
      JOIN pg_opfamily x USING (opfname) JOIN {_OF.format(catalog="pg_opfamily")} WHERE x.oid = p.amprocfamily""",
}


def members(conn, extension: str, kind: str) -> set[tuple]:
    """The rows of QUERIES[kind] for an extension of the connection's database, each value as text."""
    columns = [f"{c}" for c in conn.execute(QUERIES[kind], {"extension": extension}).fetchall()]
    return set(columns)


def functions(conn, extension: str) -> list[tuple[str, list[str], str]]:
    """Name, types of the arguments and of the result of each ordinary function that SQL can call."""
    return conn.execute(f"""SELECT proname::text, ARRAY(SELECT format_type(t, -1) FROM unnest(proargtypes) WITH ORDINALITY a (t, n) ORDER BY n), format_type(prorettype, -1)
      FROM (SELECT * FROM pg_proc WHERE prokind = 'f' AND proname !~ '^(omen_|hnsw|ivfflat)' AND NOT proargtypes::oid[] && '{{cstring,internal,cstring[]}}'::regtype[]::oid[]) x
      JOIN {_OF.format(catalog="pg_proc")} ORDER BY oid::regprocedure::text""", {"extension": extension}).fetchall()


def operators(conn, extension: str) -> list[tuple[str, str, str, str]]:
    """Name, types of both sides and of the result of each operator."""
    return conn.execute(f"""SELECT oprname::text, format_type(oprleft, -1), format_type(oprright, -1), format_type(oprresult, -1)
      FROM pg_operator x JOIN {_OF.format(catalog="pg_operator")} ORDER BY x.oid::regoperator::text""", {"extension": extension}).fetchall()


def casts(conn, extension: str) -> list[tuple[str, str]]:
    """Source and target of each cast."""
    return conn.execute(f"""SELECT format_type(castsource, -1), format_type(casttarget, -1)
      FROM pg_cast x JOIN {_OF.format(catalog="pg_cast")} ORDER BY 1, 2""", {"extension": extension}).fetchall()
