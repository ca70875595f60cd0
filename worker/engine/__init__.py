"""The engine. Start with engine.py; its words are explained in docs/glossary.md."""
