"""What an extension declares, in words that say nothing of object ids: to compare two that shall be the same."""


def _is_member(catalog: str, oid: str = "oid") -> str:
    """Whether an object is a member of extension %(extension)s."""
    return (f"{oid} IN (SELECT objid FROM pg_depend JOIN pg_extension e ON e.oid = refobjid WHERE deptype = 'e' AND refclassid = 'pg_extension'::regclass "
            f"AND classid = '{catalog}'::regclass AND extname = %(extension)s)")


# Without what belongs to an access method: to pgvector's hnsw and ivfflat, and to our own.
_FUNCTION = _is_member("pg_proc") + " AND proname !~ '^(omen_|hnsw|ivfflat)'"
_BTREE = "pg_am a ON a.amname = 'btree'"

QUERIES = {
    "type": f"""SELECT typname, typlen, typbyval, typtype, typcategory, typispreferred, typisdefined, typdelim, typrelid, typarray::regtype, typinput, typoutput,
        typreceive, typsend, typmodin, typmodout, typanalyze, typalign, typstorage, typnotnull, typbasetype, typtypmod, typndims, typcollation, typdefault
      FROM pg_type WHERE typtype = 'b' AND typelem = 0 AND {_is_member("pg_type")}""",
    "array type": f"""SELECT typname, typelem::regtype, typlen, typdelim, typinput, typoutput, typreceive, typsend, typmodin, typmodout, typanalyze, typalign, typstorage
      FROM pg_type WHERE typname !~ '^_omen_' AND {_is_member("pg_type", "typelem")}""",
    "function": f"""SELECT oid::regprocedure, prokind, proretset, prorettype::regtype, provolatile, proisstrict, proparallel, proleakproof, prosecdef, procost,
        prorows, provariadic, prosupport, pronargs, pronargdefaults, proargnames, proargmodes, proconfig FROM pg_proc WHERE {_FUNCTION}""",
    "aggregate": f"""SELECT aggfnoid::regprocedure, aggkind, aggnumdirectargs, aggtransfn, aggfinalfn, aggcombinefn, aggserialfn, aggdeserialfn, aggmtransfn,
        aggminvtransfn, aggmfinalfn, aggfinalextra, aggmfinalextra, aggfinalmodify, aggmfinalmodify, aggsortop, aggtranstype::regtype, aggtransspace,
        aggmtranstype, aggmtransspace, agginitval, aggminitval FROM pg_aggregate WHERE {_is_member("pg_proc", "aggfnoid")}""",
    "operator": f"""SELECT oprname, oprkind, oprcanmerge, oprcanhash, oprleft::regtype, oprright::regtype, oprresult::regtype, oprcom::regoperator,
        oprnegate::regoperator, oprcode::regprocedure, oprrest, oprjoin FROM pg_operator WHERE {_is_member("pg_operator")}""",
    "cast": f"""SELECT castsource::regtype, casttarget::regtype, castfunc::regprocedure, castcontext, castmethod FROM pg_cast WHERE {_is_member("pg_cast")}""",
    "operator class": f"""SELECT opcname, opcintype::regtype, opcdefault, opckeytype::regtype, opfname
      FROM pg_opclass c JOIN pg_opfamily f ON f.oid = opcfamily JOIN {_BTREE} AND a.oid = opcmethod WHERE {_is_member("pg_opclass", "c.oid")}""",
    "operator of a class": f"""SELECT opfname, amopstrategy, amopopr::regoperator, amoppurpose, amopsortfamily, amoplefttype::regtype, amoprighttype::regtype
      FROM pg_amop JOIN pg_opfamily f ON f.oid = amopfamily JOIN {_BTREE} AND a.oid = opfmethod WHERE {_is_member("pg_opfamily", "f.oid")}""",
    "function of a class": f"""SELECT opfname, amprocnum, amproc::regprocedure, amproclefttype::regtype, amprocrighttype::regtype
      FROM pg_amproc JOIN pg_opfamily f ON f.oid = amprocfamily JOIN {_BTREE} AND a.oid = opfmethod WHERE {_is_member("pg_opfamily", "f.oid")}""",
}


def members(conn, extension: str, kind: str) -> set[str]:
    """The rows of QUERIES[kind] for an extension of the connection's database, as text."""
    return {row[0] for row in conn.execute(f"SELECT x::text FROM ({QUERIES[kind]}) x", {"extension": extension}).fetchall()}


def functions(conn, extension: str) -> list[tuple[str, list[str]]]:
    """Name and types of the arguments of each ordinary function that SQL can call."""
    return conn.execute(f"""SELECT proname::text, ARRAY(SELECT t::regtype::text FROM unnest(proargtypes) WITH ORDINALITY a (t, n) ORDER BY n)
      FROM pg_proc WHERE prokind = 'f' AND NOT proargtypes::oid[] && '{{cstring,internal,cstring[]}}'::regtype[]::oid[] AND {_FUNCTION}
      ORDER BY oid::regprocedure::text""", {"extension": extension}).fetchall()


def operators(conn, extension: str) -> list[tuple[str, str, str, str]]:
    """Name, types of both sides and of the result of each operator."""
    return conn.execute(f"""SELECT oprname::text, oprleft::regtype::text, oprright::regtype::text, oprresult::regtype::text
      FROM pg_operator WHERE {_is_member("pg_operator")} ORDER BY oid::regoperator::text""", {"extension": extension}).fetchall()


def casts(conn, extension: str) -> list[tuple[str, str]]:
    """Source and target of each cast."""
    return conn.execute(f"SELECT castsource::regtype::text, casttarget::regtype::text FROM pg_cast WHERE {_is_member('pg_cast')} ORDER BY 1, 2",
                        {"extension": extension}).fetchall()
