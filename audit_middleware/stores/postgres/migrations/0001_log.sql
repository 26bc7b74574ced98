-- The log: tables, the two functions through which writers work, triggers that refuse everything else.
--
-- Written for psql as well: psql -v schema=audit -v owner=audit_owner -v writer=audit_writer -v reader=audit_reader
-- The three roles and the schema, which belongs to the owner, exist already; this runs as the owner, in a transaction.
--
-- Functions with the owner's rights name no schema in their bodies: their search_path is fixed, so nobody's own tables
-- or operators can take the place of ours. (pg_catalog is always searched first, pg_temp is named to come last.)

SET LOCAL search_path = :"schema", pg_temp;

CREATE TABLE migrations (
    version  integer PRIMARY KEY,
    name     text NOT NULL,
    applied  timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- One row for each log. `width` is how many entries a partition holds.
CREATE TABLE logs (
    log_id   integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    origin   text COLLATE "C" NOT NULL UNIQUE,
    created  text NOT NULL,
    width    bigint NOT NULL CHECK (width > 0 AND width % 65536 = 0)
);

-- The verifier keys of all keys that ever were active. It only grows.
CREATE TABLE vkeys (
    log_id    integer NOT NULL REFERENCES logs,
    position  bigint GENERATED ALWAYS AS IDENTITY,
    vkey      text COLLATE "C" NOT NULL,
    PRIMARY KEY (log_id, vkey)
);

-- Which role may write or read which log. A role counts for everyone who is a member of it.
CREATE TABLE access (
    log_id  integer NOT NULL REFERENCES logs,
    role    name NOT NULL,
    writes  boolean NOT NULL,
    PRIMARY KEY (log_id, role, writes)
);

-- The newest head of each log: the row that writers lock. `reach`: partitions exist for all entries below.
CREATE TABLE heads (
    log_id      integer PRIMARY KEY REFERENCES logs,
    size        bigint NOT NULL DEFAULT 0,
    peaks       bytea NOT NULL DEFAULT '',
    checkpoint  bytea NOT NULL DEFAULT '',
    reach       bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 10);

-- One row for each group commit: everything that a commit line of the journal holds.
CREATE TABLE commits (
    log_id      integer NOT NULL,
    first       bigint NOT NULL,
    count       integer NOT NULL,
    size        bigint NOT NULL,
    bytes       bigint NOT NULL,
    peaks       bytea NOT NULL,
    checkpoint  bytea NOT NULL,
    leaves      bytea NOT NULL,
    sha256      bytea NOT NULL,
    committed   timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (log_id, first)
) PARTITION BY RANGE (log_id, first);

CREATE TABLE entries (
    log_id  integer NOT NULL,
    idx     bigint NOT NULL,
    entry   bytea NOT NULL CHECK (octet_length(entry) BETWEEN 1 AND 65535),
    PRIMARY KEY (log_id, idx)
) PARTITION BY RANGE (log_id, idx);

-- The heads below which entries were pruned; the largest counts. `record` is the entry that explains it.
CREATE TABLE bases (
    log_id      integer NOT NULL REFERENCES logs,
    size        bigint NOT NULL,
    peaks       bytea NOT NULL,
    checkpoint  bytea NOT NULL,
    leaves      bytea NOT NULL,
    record      bigint NOT NULL,
    pruned      text NOT NULL,
    PRIMARY KEY (log_id, size)
);

-- --- append-only -----------------------------------------------------------------------------------------------------

CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql SET search_path = :"schema", pg_temp AS $$
BEGIN
    RAISE EXCEPTION '% of % is refused: the log is append-only', TG_OP, TG_TABLE_NAME
        USING ERRCODE = 'restrict_violation';
END $$;

-- A head only goes forward.
CREATE FUNCTION guard_head() RETURNS trigger LANGUAGE plpgsql SET search_path = :"schema", pg_temp AS $$
BEGIN
    IF NEW.log_id <> OLD.log_id OR NEW.reach < OLD.reach OR NEW.size < OLD.size
       OR (NEW.size = OLD.size AND (NEW.peaks, NEW.checkpoint) <> (OLD.peaks, OLD.checkpoint)) THEN
        RAISE EXCEPTION 'UPDATE of heads is refused: a head only goes forward' USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$;

-- Row triggers go over to every partition, which statement triggers do not: `add_partition` makes those.
CREATE TRIGGER no_change BEFORE UPDATE OR DELETE ON entries FOR EACH ROW EXECUTE FUNCTION refuse();
CREATE TRIGGER no_change BEFORE UPDATE OR DELETE ON commits FOR EACH ROW EXECUTE FUNCTION refuse();
CREATE TRIGGER no_change BEFORE UPDATE OR DELETE ON bases   FOR EACH ROW EXECUTE FUNCTION refuse();
CREATE TRIGGER no_change BEFORE UPDATE OR DELETE ON vkeys   FOR EACH ROW EXECUTE FUNCTION refuse();
CREATE TRIGGER no_change BEFORE UPDATE OR DELETE ON logs    FOR EACH ROW EXECUTE FUNCTION refuse();
CREATE TRIGGER forward   BEFORE UPDATE ON heads FOR EACH ROW EXECUTE FUNCTION guard_head();
CREATE TRIGGER no_change BEFORE DELETE ON heads FOR EACH ROW EXECUTE FUNCTION refuse();
CREATE TRIGGER no_truncate BEFORE TRUNCATE ON entries FOR EACH STATEMENT EXECUTE FUNCTION refuse();
CREATE TRIGGER no_truncate BEFORE TRUNCATE ON commits FOR EACH STATEMENT EXECUTE FUNCTION refuse();
CREATE TRIGGER no_truncate BEFORE TRUNCATE ON bases   FOR EACH STATEMENT EXECUTE FUNCTION refuse();
CREATE TRIGGER no_truncate BEFORE TRUNCATE ON vkeys   FOR EACH STATEMENT EXECUTE FUNCTION refuse();
CREATE TRIGGER no_truncate BEFORE TRUNCATE ON logs    FOR EACH STATEMENT EXECUTE FUNCTION refuse();
CREATE TRIGGER no_truncate BEFORE TRUNCATE ON heads   FOR EACH STATEMENT EXECUTE FUNCTION refuse();

-- ALWAYS: also in a session that plays a replica (session_replication_role).
ALTER TABLE entries ENABLE ALWAYS TRIGGER no_change, ENABLE ALWAYS TRIGGER no_truncate;
ALTER TABLE commits ENABLE ALWAYS TRIGGER no_change, ENABLE ALWAYS TRIGGER no_truncate;
ALTER TABLE bases   ENABLE ALWAYS TRIGGER no_change, ENABLE ALWAYS TRIGGER no_truncate;
ALTER TABLE vkeys   ENABLE ALWAYS TRIGGER no_change, ENABLE ALWAYS TRIGGER no_truncate;
ALTER TABLE logs    ENABLE ALWAYS TRIGGER no_change, ENABLE ALWAYS TRIGGER no_truncate;
ALTER TABLE heads   ENABLE ALWAYS TRIGGER forward, ENABLE ALWAYS TRIGGER no_change, ENABLE ALWAYS TRIGGER no_truncate;

-- --- who may what ----------------------------------------------------------------------------------------------------

-- The logs that a role may read; used by the policies below.
CREATE FUNCTION readable(p_user name) RETURNS SETOF integer
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = :"schema", pg_temp AS $$
    SELECT a.log_id FROM access a JOIN pg_roles r ON r.rolname = a.role
    WHERE NOT a.writes AND pg_has_role(p_user, r.oid, 'MEMBER')
$$;

-- Within our functions the current user is the owner; who connected is the session's user.
CREATE FUNCTION may_write(p_log integer) RETURNS boolean
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = :"schema", pg_temp AS $$
    SELECT EXISTS (
        SELECT FROM access a JOIN pg_roles r ON r.rolname = a.role
        WHERE a.log_id = p_log AND a.writes AND pg_has_role(session_user, r.oid, 'MEMBER'))
$$;

-- Members of the owner may look at every log: they could read its tables anyway.
CREATE FUNCTION may_look(p_log integer) RETURNS boolean
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = :"schema", pg_temp AS $$
    SELECT pg_has_role(session_user, current_user, 'MEMBER') OR EXISTS (
        SELECT FROM access a JOIN pg_roles r ON r.rolname = a.role
        WHERE a.log_id = p_log AND pg_has_role(session_user, r.oid, 'MEMBER'))
$$;

ALTER TABLE logs    ENABLE ROW LEVEL SECURITY;
ALTER TABLE vkeys   ENABLE ROW LEVEL SECURITY;
ALTER TABLE heads   ENABLE ROW LEVEL SECURITY;
ALTER TABLE bases   ENABLE ROW LEVEL SECURITY;
ALTER TABLE commits ENABLE ROW LEVEL SECURITY;
ALTER TABLE entries ENABLE ROW LEVEL SECURITY;
CREATE POLICY own_logs ON logs    FOR SELECT USING (log_id = ANY (ARRAY(SELECT readable(current_user))));
CREATE POLICY own_logs ON vkeys   FOR SELECT USING (log_id = ANY (ARRAY(SELECT readable(current_user))));
CREATE POLICY own_logs ON heads   FOR SELECT USING (log_id = ANY (ARRAY(SELECT readable(current_user))));
CREATE POLICY own_logs ON bases   FOR SELECT USING (log_id = ANY (ARRAY(SELECT readable(current_user))));
CREATE POLICY own_logs ON commits FOR SELECT USING (log_id = ANY (ARRAY(SELECT readable(current_user))));
CREATE POLICY own_logs ON entries FOR SELECT USING (log_id = ANY (ARRAY(SELECT readable(current_user))));

-- --- what writers and readers ask ------------------------------------------------------------------------------------

-- The logs that the session may use, or the one of this name.
CREATE FUNCTION describe(p_origin text) RETURNS TABLE (
    log_id integer, origin text, created text, width bigint, vkeys text[], version integer)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = :"schema", pg_temp AS $$
    SELECT l.log_id, l.origin, l.created, l.width,
           ARRAY(SELECT v.vkey FROM vkeys v WHERE v.log_id = l.log_id ORDER BY v.position),
           (SELECT max(m.version) FROM migrations m)
    FROM logs l WHERE (p_origin IS NULL OR l.origin = p_origin) AND may_look(l.log_id)
    ORDER BY l.origin
$$;

CREATE FUNCTION newest(p_log integer) RETURNS TABLE (size bigint, peaks bytea, checkpoint bytea)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = :"schema", pg_temp AS $$
    SELECT h.size, h.peaks, h.checkpoint FROM heads h WHERE h.log_id = p_log AND may_look(p_log)
$$;

-- The head below which entries were pruned; no row if none were.
CREATE FUNCTION base(p_log integer) RETURNS TABLE (
    size bigint, peaks bytea, checkpoint bytea, leaves bytea, record bigint, pruned text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = :"schema", pg_temp AS $$
    SELECT b.size, b.peaks, b.checkpoint, b.leaves, b.record, b.pruned
    FROM bases b WHERE b.log_id = p_log AND may_look(p_log) ORDER BY b.size DESC LIMIT 1
$$;

-- The head after the commit that ends at this size; no row if none does.
CREATE FUNCTION commit_at(p_log integer, p_size bigint) RETURNS TABLE (
    size bigint, peaks bytea, checkpoint bytea, leaves bytea)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = :"schema", pg_temp AS $$
    SELECT c.size, c.peaks, c.checkpoint, c.leaves FROM (
        SELECT * FROM commits WHERE commits.log_id = p_log AND commits.first < p_size AND may_look(p_log)
        ORDER BY commits.first DESC LIMIT 1) c
    WHERE c.size = p_size
$$;

-- --- partitions ------------------------------------------------------------------------------------------------------

-- Makes the partitions of one range. Made apart and attached, so that neither readers nor other logs' writers wait.
CREATE FUNCTION add_partition(p_table text, p_log integer, p_from bigint, p_to bigint) RETURNS void
LANGUAGE plpgsql SET search_path = :"schema", pg_temp AS $$
DECLARE
    v_name text := format('%s_%s_%s', p_table, p_log, lpad(p_from::text, 19, '0'));
BEGIN
    EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING ALL)', v_name, p_table);
    EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', v_name);
    EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%s, %s) TO (%s, %s)',
                   p_table, v_name, p_log, p_from, p_log, p_to);
    IF p_table IN ('entries', 'commits') THEN
        EXECUTE format('CREATE TRIGGER no_truncate BEFORE TRUNCATE ON %I FOR EACH STATEMENT EXECUTE FUNCTION refuse()',
                       v_name);
        EXECUTE format('ALTER TABLE %I ENABLE ALWAYS TRIGGER no_change, ENABLE ALWAYS TRIGGER no_truncate', v_name);
    END IF;
END $$;

-- Sees to it that there are partitions for all entries below `p_end`, and for some to come. The caller holds the head.
CREATE FUNCTION extend(p_log integer, p_end bigint) RETURNS void
LANGUAGE plpgsql SET search_path = :"schema", pg_temp AS $$
DECLARE
    v_width bigint;
    v_reach bigint;
BEGIN
    SELECT l.width, h.reach INTO STRICT v_width, v_reach
    FROM logs l JOIN heads h USING (log_id) WHERE l.log_id = p_log;
    WHILE v_reach < p_end + v_width / 8 LOOP
        BEGIN
            PERFORM add_partition('commits', p_log, v_reach, v_reach + v_width);
            PERFORM add_partition('entries', p_log, v_reach, v_reach + v_width);
            PERFORM add_partition('search', p_log, v_reach, v_reach + v_width);
        EXCEPTION WHEN lock_not_available OR deadlock_detected THEN
            EXIT WHEN v_reach >= p_end;  -- ahead of time: the next append tries again
            RAISE;
        END;
        v_reach := v_reach + v_width;
        UPDATE heads SET reach = v_reach WHERE log_id = p_log;
    END LOOP;
END $$;

-- Makes the range of entries below a commit boundary leave the log; returns the bytes of what could be dropped, which is
-- every partition that lies below as a whole. For members of the owner. What lies below and is still there is no part
-- of the log any more. One transaction: if we die here, nothing has happened.
CREATE FUNCTION prune(p_log integer, p_base bigint, p_record bigint, p_pruned text) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = :"schema", pg_temp AS $$
DECLARE
    v_width bigint;
    v_size bigint;
    v_base bigint;
    v_freed bigint := 0;
    v_part record;
BEGIN
    SELECT l.width INTO STRICT v_width FROM logs l WHERE l.log_id = p_log;
    SELECT h.size INTO STRICT v_size FROM heads h WHERE h.log_id = p_log FOR UPDATE;
    SELECT coalesce(max(b.size), 0) INTO v_base FROM bases b WHERE b.log_id = p_log;
    IF p_base < v_base OR p_base > v_size THEN
        RAISE EXCEPTION 'the log begins at entry % and ends at %; it cannot be made to begin at %', v_base, v_size, p_base
            USING ERRCODE = 'check_violation';
    END IF;
    IF p_base > v_base THEN
        INSERT INTO bases SELECT p_log, c.size, c.peaks, c.checkpoint, c.leaves, p_record, p_pruned
        FROM (SELECT * FROM commits WHERE log_id = p_log AND first < p_base ORDER BY first DESC LIMIT 1) c
        WHERE c.size = p_base;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'no commit ends at size %', p_base USING ERRCODE = 'check_violation';
        END IF;
    END IF;
    LOCK TABLE commits, entries, search IN ACCESS EXCLUSIVE MODE;  -- in the order in which readers come
    FOR v_part IN
        SELECT c.oid, c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
        WHERE i.inhparent IN ('commits'::regclass, 'entries'::regclass, 'search'::regclass)
          AND split_part(c.relname, '_', 2) = p_log::text
          AND split_part(c.relname, '_', 3)::bigint + v_width <= p_base
    LOOP
        v_freed := v_freed + pg_total_relation_size(v_part.oid);
        EXECUTE format('DROP TABLE %I', v_part.relname);
    END LOOP;
    DELETE FROM blocks WHERE log_id = p_log AND first + 1024 <= p_base;
    RETURN v_freed;
END $$;

-- --- writing ---------------------------------------------------------------------------------------------------------

-- The head, locked until the transaction ends: whoever holds it is the only writer.
CREATE FUNCTION lock_head(p_log integer) RETURNS TABLE (size bigint, peaks bytea, checkpoint bytea)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = :"schema", pg_temp AS $$
BEGIN
    IF NOT may_write(p_log) THEN
        RAISE EXCEPTION 'role % may not write to this log', session_user USING ERRCODE = 'insufficient_privilege';
    END IF;
    RETURN QUERY SELECT h.size, h.peaks, h.checkpoint FROM heads h WHERE h.log_id = p_log FOR UPDATE;
END $$;

-- One group commit: the only way in which anything gets into a log. A compare-and-swap on the head.
--
-- `p_columns` is a JSON array with one array for each entry: the columns of the search index. They are not trusted.
CREATE FUNCTION append(
    p_log integer, p_first bigint, p_peaks bytea, p_checkpoint bytea, p_leaves bytea, p_sha256 bytea,
    p_entries bytea[], p_columns jsonb) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = :"schema", pg_temp AS $$
DECLARE
    v_count integer := coalesce(cardinality(p_entries), 0);
    v_size bigint := p_first + v_count;
    v_head heads;
BEGIN
    IF NOT may_write(p_log) THEN
        RAISE EXCEPTION 'role % may not write to this log', session_user USING ERRCODE = 'insufficient_privilege';
    END IF;
    -- Whoever writes, and whatever the server's default is: the signature must not be older than its durability.
    IF current_setting('synchronous_commit') NOT IN ('on', 'remote_apply') THEN
        PERFORM set_config('synchronous_commit', 'on', true);
    END IF;
    SELECT * INTO STRICT v_head FROM heads WHERE log_id = p_log FOR UPDATE;
    IF v_head.size <> p_first THEN
        RAISE EXCEPTION 'the log has % entries, not %', v_head.size, p_first USING ERRCODE = 'serialization_failure';
    END IF;
    IF v_count = 0 OR octet_length(p_peaks) <> 32 * bit_count(v_size::bit(64)) OR octet_length(p_sha256) <> 32
       OR octet_length(p_leaves) NOT IN (0, 4 * v_count) OR octet_length(p_checkpoint) > 65535
       OR jsonb_array_length(p_columns) IS DISTINCT FROM v_count THEN
        RAISE EXCEPTION 'this is no commit of % entries at size %', v_count, v_size USING ERRCODE = 'check_violation';
    END IF;
    IF v_head.reach < v_size + 65536 / 8 THEN
        PERFORM extend(p_log, v_size);
    END IF;
    INSERT INTO entries (log_id, idx, entry)
        SELECT p_log, p_first + u.position - 1, u.entry
        FROM unnest(p_entries) WITH ORDINALITY AS u (entry, position);
    INSERT INTO commits (log_id, first, count, size, bytes, peaks, checkpoint, leaves, sha256)
        SELECT p_log, p_first, v_count, v_size, sum(octet_length(u.entry)), p_peaks, p_checkpoint, p_leaves, p_sha256
        FROM unnest(p_entries) AS u (entry);
    PERFORM index_entries(p_log, p_first, p_columns);
    UPDATE heads SET size = v_size, peaks = p_peaks, checkpoint = p_checkpoint WHERE log_id = p_log;
END $$;

-- Adds a log, empty. For members of the owner.
CREATE FUNCTION add_log(p_origin text, p_created text, p_width bigint, p_vkeys text[]) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = :"schema", pg_temp AS $$
DECLARE
    v_log integer;
BEGIN
    INSERT INTO logs (origin, created, width) VALUES (p_origin, p_created, p_width) RETURNING log_id INTO v_log;
    INSERT INTO vkeys (log_id, vkey) SELECT v_log, u.vkey FROM unnest(p_vkeys) WITH ORDINALITY AS u (vkey, position)
        ORDER BY u.position;
    INSERT INTO heads (log_id) VALUES (v_log);
    PERFORM extend(v_log, 1);
    RETURN v_log;
END $$;
