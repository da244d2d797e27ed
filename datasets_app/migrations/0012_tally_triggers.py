"""Postgres counts examples as they change, a statement at a time; those that are there already are counted now."""

from django.db import migrations

FUNCTION = """
create function datasets_app_tally_examples() returns trigger language plpgsql as $$
begin
    if TG_OP = 'INSERT' then
        insert into datasets_app_tally (dataset_id, state, change)
        select dataset_id, state, count(*) from new_rows group by dataset_id, state;
    elsif TG_OP = 'DELETE' then
        insert into datasets_app_tally (dataset_id, state, change)
        select dataset_id, state, -count(*) from old_rows group by dataset_id, state;
    else
        insert into datasets_app_tally (dataset_id, state, change)
        select dataset_id, state, sum(change) from (
            select dataset_id, state, 1 as change from new_rows
            union all
            select dataset_id, state, -1 from old_rows
        ) as changes group by dataset_id, state having sum(change) <> 0;
    end if;
    return null;
end $$
"""
TRIGGERS = """
create trigger tally_insert after insert on datasets_app_example
    referencing new table as new_rows for each statement execute function datasets_app_tally_examples();
create trigger tally_delete after delete on datasets_app_example
    referencing old table as old_rows for each statement execute function datasets_app_tally_examples();
create trigger tally_update after update on datasets_app_example
    referencing old table as old_rows new table as new_rows
    for each statement execute function datasets_app_tally_examples();
"""
COUNT = """
insert into datasets_app_tally (dataset_id, state, change)
select dataset_id, state, count(*) from datasets_app_example group by dataset_id, state
"""
BACK = """
drop trigger tally_insert on datasets_app_example;
drop trigger tally_delete on datasets_app_example;
drop trigger tally_update on datasets_app_example;
drop function datasets_app_tally_examples;
delete from datasets_app_tally;
"""


class Migration(migrations.Migration):
    dependencies = [("datasets_app", "0011_tally")]
    # Within one transaction: nothing is written between the triggers and the count.
    operations = [migrations.RunSQL([FUNCTION, TRIGGERS, "lock datasets_app_example in share mode", COUNT], BACK)]
