-- Two corrections: what a role that only writes may do with `kept`, and the order in which `prune` locks tables.

SET LOCAL search_path = :"schema", pg_temp;

-- Whoever may only write a log shares the list of blocks, and nothing else of what stands beside it: a follower's place
-- holds what waits to be told, which comes from records, and moving it would keep records from being told.

CREATE FUNCTION may_share(p_log integer, p_name text) RETURNS boolean
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = :"schema", pg_temp AS $$
    SELECT may_look(p_log) AND (p_name = 'blocks.json' OR pg_has_role(session_user, current_user, 'MEMBER') OR EXISTS (
        SELECT FROM access a JOIN pg_roles r ON r.rolname = a.role
        WHERE a.log_id = p_log AND NOT a.writes AND pg_has_role(session_user, r.oid, 'MEMBER')))
$$;

CREATE OR REPLACE FUNCTION kept(p_log integer, p_name text) RETURNS TABLE (revision bigint, value bytea)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = :"schema", pg_temp AS $$
    SELECT k.revision, k.value FROM kept k WHERE k.log_id = p_log AND k.name = p_name AND may_share(p_log, p_name)
$$;

CREATE FUNCTION guard_kept() RETURNS trigger LANGUAGE plpgsql SET search_path = :"schema", pg_temp AS $$
BEGIN
    IF NOT may_share(coalesce(NEW.log_id, OLD.log_id), coalesce(NEW.name, OLD.name)) THEN
        RAISE EXCEPTION 'role % may not read this log, and so not keep a place in it', session_user
            USING ERRCODE = 'insufficient_privilege';
    END IF;
    RETURN coalesce(NEW, OLD);
END $$;

CREATE TRIGGER guard BEFORE INSERT OR UPDATE OR DELETE ON kept FOR EACH ROW EXECUTE FUNCTION guard_kept();

REVOKE ALL ON FUNCTION may_share(integer, text), guard_kept() FROM PUBLIC;

-- As it was, but that it locks the tables in the order in which an append fills them: an append to another log of the
-- schema, which holds the first and wants the second, must not wait for who holds the second and wants the first.
CREATE OR REPLACE FUNCTION prune(p_log integer, p_base bigint, p_record bigint, p_pruned text) RETURNS bigint
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
    LOCK TABLE entries, commits, search IN ACCESS EXCLUSIVE MODE;  -- in the order in which everybody comes
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
