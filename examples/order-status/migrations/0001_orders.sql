CREATE TABLE orders (
  id TEXT PRIMARY KEY,
  title TEXT NOT NULL,
  customers TEXT NOT NULL, -- a JSON array of users
  status TEXT NOT NULL DEFAULT 'placed',
  version INTEGER NOT NULL DEFAULT 1
);

INSERT INTO orders (id, title, customers) VALUES
  ('1001', 'Espresso machine', '["ann"]'),
  ('1002', 'Standing desk', '["ann", "bob"]'),
  ('1003', 'Desk lamp', '["bob"]');
