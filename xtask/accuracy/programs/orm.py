"""An ORM on a database in memory: rows written, queried with their children, deleted."""

import random

from sqlalchemy import ForeignKey, create_engine, delete, func, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship, selectinload

from moments import Pace, moment

random.seed(2)


class Base(DeclarativeBase):
    pass


class Author(Base):
    __tablename__ = "author"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    books: Mapped[list["Book"]] = relationship(back_populates="author", cascade="all, delete-orphan")


class Book(Base):
    __tablename__ = "book"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]
    body: Mapped[str]
    author_id: Mapped[int] = mapped_column(ForeignKey("author.id"))
    author: Mapped[Author] = relationship(back_populates="books")


engine = create_engine("sqlite://")
Base.metadata.create_all(engine)
LETTERS = "abcdefghijklmnopqrstuvwxyz "


def text(length):
    return "".join(random.choices(LETTERS, k=length))


def write(authors):
    with Session(engine) as session:
        for _ in range(authors):
            books = [Book(title=text(20), body=text(random.choice((200, 700, 3000)))) for _ in range(8)]
            session.add(Author(name=text(12), books=books))
        session.commit()


def read(limit):
    with Session(engine) as session:
        chosen = select(Author).order_by(func.random()).limit(limit)
        authors = session.scalars(chosen.options(selectinload(Author.books))).all()
        return sum(len(book.body) for author in authors for book in author.books)


pace = Pace(0.3)
write(10)
read(10)
moment("warm")
for _ in range(9):
    write(110)
    pace.wait()
moment("written")
read(900)
moment("read")
with Session(engine) as session:
    held = session.scalars(select(Author).options(selectinload(Author.books))).all()
    moment("held")
    del held
with Session(engine) as session:
    session.execute(delete(Book).where(Book.id % 4 != 0))
    session.commit()
moment("deleted")
for _ in range(8):
    write(15)
    read(60)
    pace.wait()
moment("final")
